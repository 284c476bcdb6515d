"""What the browser app does, without a browser and without gradio: photos, cameras, orbits, errors."""

import importlib.util
import json
import subprocess
import sys
import threading
import time
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from repeating import CAR
from tiny import tiny_pipeline

from mvgenvs.app import __main__ as starting
from mvgenvs.app import markup
from mvgenvs.app.reports import StoppedError, reported
from mvgenvs.app.studio import MOST_VIEWS, Choices, Orbit, Progress, Studio, discard
from mvgenvs.cli import run_script
from mvgenvs.errors import UserError
from mvgenvs.trajectories import angles_of

QUICK = {"views": 5, "steps": 2}


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    return Studio(tiny_pipeline(), tmp_path_factory.mktemp("orbits"))


@pytest.fixture(scope="module")
def subject(studio):
    return studio.read(CAR)


def test_without_gradio_the_app_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as ended:
        run_script(lambda: starting.main([]))
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: the browser app needs gradio: run `pip install 'mvgenvs[app]'`.\n"


def test_help_answers_without_gradio_and_torch():
    script = (
        "import sys; sys.argv[1:] = ['--help']\nimport runpy\ntry: runpy.run_module('mvgenvs.app', run_name='__main__')"
    )
    script += "\nexcept SystemExit: print([name for name in ('gradio', 'torch') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "--port" in done.stdout and done.stdout.endswith("[]\n")


def test_a_photo_is_cut_and_its_camera_found(subject):
    assert 20 < subject.azimuth < 60 and "plain background" in subject.view.notes[0]
    assert subject.photo.shape[2] == 3 and subject.view.image.mode == "RGBA"


def test_a_corrected_camera_is_the_one_that_is_used(subject):
    assert subject.seen_from(round(subject.azimuth), round(subject.elevation)) is subject.view, "as the sliders show it"
    turned = subject.seen_from(-100, 5).camera
    azimuth, elevation = angles_of(turned.centers)
    assert (azimuth.item(), elevation.item()) == pytest.approx((-100, 5), abs=1e-3)
    with pytest.raises(UserError, match="azimuth"):
        subject.seen_from(1e9, 0)


def test_the_field_is_lifted_again_only_for_another_camera(studio, subject):
    first = studio.lift(subject, 40, 20)
    assert studio.lift(subject, 40, 20, first) is first
    other = studio.lift(subject, 220, 20, first)
    assert other is not first
    names, pictures = zip(*studio.look(first, Choices())[0], strict=True)
    assert names == ("photo", "front", "right side", "top")
    again = [picture for _, picture in studio.look(other, Choices())[0]]
    assert (pictures[1] != again[1]).any(), "the front shows what the camera says"


def test_the_map_follows_the_orbit(studio, subject):
    lifted = studio.lift(subject, 40, 20)
    low, high = (studio.look(lifted, Choices(elevation=angle))[1] for angle in (0.0, 60.0))
    assert low.shape != high.shape or (low != high).any()


def test_an_orbit_is_that_of_the_command_and_is_told_as_it_comes(studio, subject):
    *told, orbit = studio.generate(subject, subject.azimuth, subject.elevation, Choices(seed=3, **QUICK))
    assert isinstance(orbit, Orbit) and all(isinstance(each, Progress) for each in told)
    assert [each.done for each in told if each.views is None] == [1, 2, 3, 4]
    assert [len(each.views) for each in told if each.views is not None] == [4, 5]
    assert told[-1].done == told[-1].steps and told[-1].seconds_left == 0
    assert {path.name for path in orbit.files} == {"orbit.mp4", "views.zip", "contact_sheet.png"}
    with zipfile.ZipFile(orbit.folder / "views.zip") as archive:
        names = archive.namelist()
        assert len(json.loads(archive.read("cameras.json"))["frames"]) == 5
    assert sorted(names)[1:-1] == [f"frames/{i:03d}.png" for i in range(5)]
    with torch.no_grad():
        expected = studio.pipe(
            orbit.given.images,
            orbit.given.cameras,
            orbit.targets.batched(),
            generator=torch.Generator().manual_seed(3),
            num_inference_steps=2,
        ).images[0]
    shown = torch.from_numpy(np.stack(orbit.views)).movedim(-1, 1) / 255
    assert (shown - expected).abs().max() <= 0.51 / 255
    discard(orbit)
    assert not orbit.folder.exists()


def test_a_stopped_orbit_leaves_nothing_and_computes_no_further(studio, subject):
    steps = []
    stream = studio.pipe.stream

    def watched(*arguments, on_step, **options):
        return stream(*arguments, on_step=lambda state: (steps.append(state.step), on_step(state)), **options)

    studio.pipe.stream = watched
    try:
        reports = studio.generate(subject, 40, 20, Choices(views=40, steps=2))
        next(reports)
        reports.close()
    finally:
        del studio.pipe.stream
    assert len(steps) < 20, "of 20"
    assert not any(studio.folder.iterdir())


def test_reports_end_with_the_error_of_the_work():
    def work(report):
        report(1)
        raise UserError("no more")

    reports = reported(work)
    assert next(reports) == 1
    with pytest.raises(UserError, match="no more"):
        next(reports)


def test_closing_reports_ends_the_work():
    ended = threading.Event()

    def work(report):
        try:
            while True:
                report(0)
                time.sleep(0.001)
        except StoppedError:
            ended.set()
            raise

    reports = reported(work)
    next(reports)
    reports.close()
    assert ended.is_set()


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({"views": MOST_VIEWS + 1}, "views must be"),
        ({"views": 2.5}, "views must be"),
        ({"views": True}, "views must be"),
        ({"steps": -1}, "steps must be"),
        ({"seed": 2**40}, "seed must be"),
        ({"plan": "unconditional"}, "no plan 'unconditional'"),
        ({"elevation": float("nan")}, "elevation must"),
        ({"elevation": None}, "elevation must"),
    ],
)
def test_pages_cannot_ask_for_what_is_out_of_range(choices, said):
    asked = {"plan": "joint", "views": 8, "elevation": 10, "steps": 3, "seed": 1}
    assert Choices.asked(**asked) == Choices(**asked | {"elevation": 10.0})
    with pytest.raises(UserError, match=said):
        Choices.asked(**asked | choices)


def written(path, kind):
    """A file as somebody may drop it."""
    car = Image.open(CAR).convert("RGB")
    if kind == "text":
        path.write_text("no picture")
    elif kind == "truncated":
        car.save(path, "PNG")
        path.write_bytes(path.read_bytes()[:2000])
    elif kind == "tiny":
        car.resize((8, 8)).save(path, "PNG")
    elif kind == "huge":
        Image.new("1", (12000, 8000)).save(path, "PNG")
    elif kind == "bomb":
        Image.new("1", (30000, 30000)).save(path, "PNG")
    elif kind == "white":
        Image.new("RGB", (200, 200), "white").save(path, "PNG")
    elif kind == "transparent":
        Image.new("RGBA", (200, 200), (0, 0, 0, 0)).save(path, "PNG")
    elif kind == "animated":
        car.save(path, "GIF", save_all=True, append_images=[car.rotate(90)])
    elif kind == "cmyk":
        car.convert("CMYK").save(path, "JPEG")
    elif kind == "16 bit":
        Image.fromarray(np.asarray(car.convert("L")).astype(np.uint16) * 257).save(path, "PNG")
    elif kind == "wide":
        wide = Image.new("RGB", (900, 128), "white")
        wide.paste(car, (300, 0))
        wide.save(path, "PNG")
    return str(path)


@pytest.mark.parametrize("kind", ["text", "truncated", "tiny", "huge", "bomb", "white", "transparent"])
def test_bad_photos_are_one_sentence_that_tells_no_folder(studio, tmp_path, kind):
    path = written(tmp_path / "photo.png", kind)
    with pytest.raises(UserError) as refused:
        studio.read(path)
    said = markup.sentence(refused.value, path)
    assert (said[0].isupper() or said.startswith("photo.png")) and said.endswith(".") and "photo.png" in said
    assert str(tmp_path) not in said and "--" not in said


@pytest.mark.parametrize("kind", ["animated", "cmyk", "16 bit", "wide"])
def test_odd_photos_are_read(studio, tmp_path, kind):
    assert studio.read(written(tmp_path / "photo.png", kind)).view.image.mode == "RGBA"


def test_a_mask_is_the_cut(studio, subject, tmp_path):
    photo = Image.open(CAR)
    mask = np.zeros(photo.size[::-1], np.uint8)
    mask[40:90, 30:100] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    found = studio.read(CAR, "mask", str(tmp_path / "mask.png"))
    assert found.view.notes[0].startswith("matte: from") and found.view.notes != subject.view.notes
    with pytest.raises(UserError, match="drop a mask"):
        studio.read(CAR, "mask")
    with pytest.raises(UserError, match="no matte '/etc/passwd'"):
        studio.read(CAR, "/etc/passwd")
    Image.fromarray(mask[:50]).save(tmp_path / "small.png")
    with pytest.raises(UserError, match="make them equal"):
        studio.read(CAR, "mask", str(tmp_path / "small.png"))


def test_markup_says_what_it_is_given_and_nothing_else():
    bar = markup.progress(Progress(3, 12, 95.0, None), 24, 4)
    assert "width:25.0%" in bar and "4 of 24 views" in bar and "2 min left" in bar
    assert "<script>" not in markup.error("<script>") + markup.notes(["<script>"]) + markup.status("<script>")
    picture = np.zeros((4, 4, 3), np.uint8)
    strip = markup.strip({1: picture}, 3)
    assert strip.count("<img") == 1 and strip.count("<span>") == 2
    assert 'alt="&lt;b&gt;"' in markup.figures([("<b>", picture)])


def test_white_paint_is_told_from_what_is_cut_away():
    white = np.full((20, 20, 4), 255, np.uint8)
    white[:, 10:, 3] = 0
    shown = markup.on_checkerboard(white)
    assert (shown[:, :10] == 255).all() and (shown[:, 10:] < 255).all()
