"""Mistakes on the command line of `infer_multiview.py`: one sentence and exit code 2; and its help."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from repeating import CAMERA, CAR, ROOT, infer, stand_in

from mvgenvs.errors import UserError


@pytest.fixture
def pipeline(monkeypatch):
    return stand_in(monkeypatch)


MALFORMED = {
    "nothing asked for": ([], "--image"),
    "unknown flag": (["--image", CAR, "--colour", "red"], "--colour"),
    "no such image": (["--image", "nowhere.png"], "no such image"),
    "image is a text": (["--image", CAMERA], "not an image"),
    "image is a folder": (["--image", str(ROOT)], "folder"),
    "no such camera file": (["--image", CAR, "--camera", "nowhere.json"], "no such camera file"),
    "camera file is an image": (["--image", CAR, "--camera", CAR], "not JSON"),
    "camera without image": (["--camera", CAMERA], "--image"),
    "two cameras for one image": (["--image", CAR, "--camera", CAMERA, "--camera", CAMERA], "--camera"),
    "second image without camera": (["--image", CAR, "--image", CAR], "--camera"),
    "matte without image": (["--matte", "none"], "--image"),
    "two mattes for one image": (["--image", CAR, "--matte", "auto", "--matte", "none"], "--matte none"),
    "no such mask": (["--image", CAR, "--matte", "nowhere.png"], "no such image"),
    "mask that is no image": (["--image", CAR, "--matte", CAMERA], "not an image"),
    "mask in colours": (["--image", CAR, "--matte", CAR], "grey image"),
    "estimate without a cut": (["--image", CAR, "--matte", "none", "--camera", "estimate"], "--matte none"),
    "preview of nothing": (["--unconditional", "--preview"], "--preview"),
    "image for unconditional": (["--image", CAR, "--unconditional"], "--unconditional"),
    "no views": (["--image", CAR, "--num-views", "0"], "--num-views"),
    "words for a number": (["--image", CAR, "--num-views", "many"], "--num-views"),
    "no steps": (["--image", CAR, "--steps", "0"], "--steps"),
    "negative churn": (["--image", CAR, "--churn", "-1"], "--churn"),
    "unknown start": (["--image", CAR, "--start", "zeros"], "--start"),
    "no rendering to start from": (["--unconditional", "--start", "render"], "--start render"),
    "negative noise": (["--image", CAR, "--sigma-max", "-1"], "--sigma-max"),
    "guidance is not a number": (["--image", CAR, "--guidance", "nan"], "--guidance"),
    "elevation below the floor": (["--image", CAR, "--elevation", "-91"], "--elevation"),
    "negative seed": (["--image", CAR, "--seed", "-1"], "--seed"),
    "size not divisible": (["--image", CAR, "--size", "100"], "divisible by 8"),
    "size of another model": (["--image", CAR, "--size", "64"], "--size 64"),
    "unknown plan": (["--image", CAR, "--plan", "random"], "--plan"),
    "plan without images": (["--image", CAR, "--plan", "unconditional"], "takes no known views"),
    "more known views than the model takes": (["--image", CAR, "--camera", CAMERA] * 9, "from 9 views"),
    "unknown sampler": (["--image", CAR, "--sampler", "magic"], "--sampler"),
    "unknown trajectory": (["--image", CAR, "--trajectory", "zigzag"], "orbit, spiral, circle"),
    "no such trajectory file": (["--image", CAR, "--trajectory", "nowhere.json"], "no such camera file"),
    "number of views of a file": (["--image", CAR, "--trajectory", CAMERA, "--num-views", "3"], "--num-views"),
    "unknown device": (["--image", CAR, "--device", "abacus"], "--device abacus"),
    "output is a file": (["--image", CAR, "--output", CAR], "--output"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_mistakes_are_one_sentence(name, pipeline, tmp_path, monkeypatch, capsys):
    arguments, expected = MALFORMED[name]
    monkeypatch.chdir(tmp_path)
    with pytest.raises((UserError, SystemExit)) as caught:
        infer(*arguments)
    if isinstance(caught.value, SystemExit):
        assert caught.value.code == 2
        message = capsys.readouterr().err.removeprefix("error: ")
    else:
        message = f"{str(caught.value).rstrip('.')}.\n"  # as `run_script` prints it
    assert expected in message
    assert message.count("\n") == 1
    assert message.endswith(".\n")


def test_camera_file_of_many_or_of_another_shape(tmp_path, pipeline):
    infer("--image", CAR, "--output", tmp_path / "a", "--num-views", 3)
    with pytest.raises(UserError, match="holds 3 cameras"):
        infer("--image", CAR, "--camera", tmp_path / "a/cameras.json", "--output", tmp_path / "b")
    wide = json.loads(Path(CAMERA).read_text()) | {"w": 256}
    (tmp_path / "wide.json").write_text(json.dumps(wide))
    with pytest.raises(UserError, match="is for images of 256x128"):
        infer("--image", CAR, "--camera", tmp_path / "wide.json", "--output", tmp_path / "b")


def script(*arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / "infer_multiview.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200"},
    )


def test_script_exits_with_2_and_no_traceback():
    for arguments in (["--image", "nowhere.png"], ["--steps", "few"]):
        result = script(*arguments)
        assert result.returncode == 2
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1


def test_help_explains_every_flag():
    result = script("--help")
    assert result.returncode == 0
    explanations = re.split(r"\n  --", result.stdout)[1:]
    assert len(explanations) >= 20
    assert [e for e in explanations if len(e.split()) < 5] == []
