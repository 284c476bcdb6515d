"""The server of the browser app: what it hands out and what it refuses. Wants the extra `app`."""

import json
import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from repeating import CAR
from tiny import tiny_pipeline

pytest.importorskip("gradio")

from mvgenvs.app import handlers as pages
from mvgenvs.app.server import start
from mvgenvs.app.studio import Studio
from mvgenvs.errors import UserError


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Address, folder."""
    folder, port = tmp_path_factory.mktemp("served"), free_port()
    page = start(tiny_pipeline(), folder, "127.0.0.1", port)
    yield f"http://127.0.0.1:{port}", folder
    page.close()


def ask(address, data=None, **headers):
    """Status, headers and body of an answer."""
    request = urllib.request.Request(address, data=data, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def upload(address, content, name="photo.png"):
    head = f'--b\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
    kind = "multipart/form-data; boundary=b"
    return ask(f"{address}/gradio_api/upload", head + content + b"\r\n--b--\r\n", **{"Content-Type": kind})


def test_the_page_loads_nothing_from_elsewhere(served):
    status, headers, body = ask(served[0])
    assert status == 200 and b"mv-stage" in body
    policy = headers["content-security-policy"]
    assert "default-src 'self' data: blob:;" in policy and "http" not in policy and "*" not in policy
    for tag in (b"<script src=", b'<link rel="stylesheet" href=', b"@import url("):
        for rest in body.split(tag)[1:]:
            assert b"http" not in rest.split(b">")[0].replace(served[0].encode(), b""), rest[:80]


@pytest.mark.parametrize("path", ["/etc/passwd", "../../etc/passwd", "/tmp/../etc/passwd", CAR, "http://127.0.0.1:1/"])
@pytest.mark.parametrize("route", ["/gradio_api/file=", "/file=", "/static/", "/assets/"])
def test_no_path_of_the_server_can_be_read(served, route, path):
    status, _, body = ask(f"{served[0]}{route}{path}")
    assert status in (403, 404) and b"root:" not in body


def test_uploads_are_bounded_and_kept_in_the_folder(served):
    status, _, body = upload(served[0], Path(CAR).read_bytes())
    assert status == 200
    kept = Path(json.loads(body)[0])
    assert kept.is_relative_to(served[1]) and kept.read_bytes() == Path(CAR).read_bytes()
    assert upload(served[0], bytes(21 * 10**6))[0] == 413
    status, _, body = upload(served[0], b"x", "../../../escaped.png")
    assert status != 200 or Path(json.loads(body)[0]).resolve().is_relative_to(served[1])


def test_a_port_that_is_taken_is_one_sentence(served, tmp_path):
    with pytest.raises(UserError, match=r"choose another --port"):
        start(tiny_pipeline(), tmp_path, "127.0.0.1", int(served[0].rsplit(":", 1)[1]))


def test_an_error_clears_the_subject_and_is_shown(tmp_path):
    handlers = pages.Handlers(Studio(tiny_pipeline(), tmp_path))
    (tmp_path / "photo.png").write_text("no picture")
    subject, shown, *_ = handlers.read(str(tmp_path / "photo.png"), "auto", None)
    assert (
        subject is None and "mv-error" in shown and "photo.png is not an image" in shown and str(tmp_path) not in shown
    )
    assert handlers.look(None, 0, 0, 24, 20, None) == (None, "", "")


def test_faults_of_the_program_are_logged_and_not_shown(tmp_path, monkeypatch, caplog):
    studio = Studio(tiny_pipeline(), tmp_path)
    handlers, subject = pages.Handlers(studio), studio.read(CAR)
    monkeypatch.setattr(studio, "lift", None)
    _, shown, _ = handlers.look(subject, 40, 20, 24, 20, None)
    assert "mv-error" in shown and "NoneType" not in shown and "NoneType" in caplog.text


def test_an_orbit_on_the_page_and_its_mistakes(tmp_path):
    studio = Studio(tiny_pipeline(), tmp_path)
    handlers, subject = pages.Handlers(studio), studio.read(CAR)
    *told, last = handlers.generate(subject, 40, 20, "joint", 3, 20, 2, 0, None)
    assert any("mv-bar" in str(each[1]) for each in told)
    orbit, status, strip, turntable, video, files, *_ = last
    assert "3 views" in status and strip.count("<img") == turntable.count("<img") == 3
    assert Path(video).exists() and all(Path(file).exists() for file in files)
    *_, again = handlers.generate(subject, 40, 20, "joint", 3, 20, 2, 0, orbit)
    assert not orbit.folder.exists() and again[0].folder.exists(), "the page's earlier orbit goes"
    *_, failed = handlers.generate(subject, 40, 20, "joint", 10**9, 20, 2, 0, None)
    assert "views must be a whole number" in failed[1].lower()
    *_, failed = handlers.generate(None, 40, 20, "joint", 3, 20, 2, 0, None)
    assert "Drop a photo first" in failed[1]
    assert "Generate an orbit first" in handlers.mesh(None)[0]
    assert handlers.turn(handlers.turn(30)) == 30 and handlers.turn(-10) == 170
