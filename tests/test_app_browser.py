"""The browser app in a real browser: a photo dropped, an orbit made, turned, downloaded; an error; two tabs.

Wants the extra `app`, playwright and a Chromium of the system.
"""

import shutil
import subprocess
import sys
import zipfile

import pytest
from repeating import CAR
from test_app_server import free_port
from tiny import tiny_pipeline

pytest.importorskip("gradio")
pytest.importorskip("playwright")

from playwright.sync_api import sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium"),
]
WAIT = 60_000  # milliseconds


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Of the app as users start it: the shape checks of the tests hide generators from gradio."""
    model, port = tmp_path_factory.mktemp("model"), free_port()
    tiny_pipeline().save_pretrained(model)
    command = [sys.executable, "-m", "mvgenvs.app", "--port", str(port), "--checkpoint", str(model)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as app:
        assert app.stdout is not None and app.stdout.readline().startswith("Open http://127.0.0.1")
        yield f"http://127.0.0.1:{port}"
        app.terminate()


@pytest.fixture(scope="module")
def browser():
    closed = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"  # no network
    with sync_playwright() as running:
        yield running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", closed])


def opened(browser, address):
    """A tab of its own, and what it asked of other hosts."""
    tab, elsewhere = browser.new_page(), []
    tab.set_default_timeout(WAIT)
    ours = (address, "data:", "blob:")
    tab.on("request", lambda request: None if request.url.startswith(ours) else elsewhere.append(request.url))
    tab.goto(address)
    tab.wait_for_selector("#generate")
    return tab, elsewhere


def test_from_a_photo_to_an_orbit_in_the_hand(browser, address, tmp_path):
    tab, elsewhere = opened(browser, address)
    tab.set_input_files("#photo input[type=file]", CAR)
    tab.wait_for_selector("#live img")
    assert int(tab.input_value("#azimuth input[type=number]")) in range(20, 60)
    before = tab.get_attribute("#live img >> nth=1", "src")
    tab.click("#turn")
    tab.wait_for_function("before => document.querySelectorAll('#live img')[1].src !== before", arg=before)
    tab.click("#generate")
    stage = tab.locator(".mv-stage")
    stage.wait_for()
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    tab.mouse.move(box["x"] + 150, box["y"] + 50)
    tab.mouse.down()
    tab.mouse.move(box["x"] + 150 - 27, box["y"] + 50, steps=3)
    tab.mouse.up()
    assert tab.input_value("#turntable input") == "3"
    assert tab.get_attribute(".mv-stage img.mv-on", "alt") == "view 3"
    with tab.expect_download() as started:
        tab.locator("#files a[download='views.zip']").first.click()
    started.value.save_as(tmp_path / "views.zip")
    assert len([name for name in zipfile.ZipFile(tmp_path / "views.zip").namelist() if "frames/" in name]) == 24
    assert not elsewhere


def test_two_tabs_have_their_own_photos_and_errors(browser, address, tmp_path):
    first, second = opened(browser, address)[0], opened(browser, address)[0]
    (tmp_path / "photo.png").write_text("no picture")
    first.set_input_files("#photo input[type=file]", CAR)
    second.set_input_files("#photo input[type=file]", str(tmp_path / "photo.png"))
    second.wait_for_selector(".mv-error")
    assert "photo.png is not an image" in second.inner_text("#cut")
    first.wait_for_selector("#live img")
    second.click("#generate")
    first.click("#generate")
    second.wait_for_selector("#status .mv-error")
    first.wait_for_selector(".mv-stage")
    assert second.locator(".mv-stage").count() == 0 and first.locator(".mv-error").count() == 0
