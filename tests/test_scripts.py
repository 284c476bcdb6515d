"""Both scripts as a user runs them: two real training steps on real images, export, an orbit from the picture."""

import json
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from test_training import REPO, TINY

import infer_multiview
import train_multiview
from mvgenvs.errors import UserError


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps of the denoiser on the real sample, a validation sheet, and the export of the result."""
    folder = tmp_path_factory.mktemp("scripts")
    settings = TINY | {"run.output": str(folder / "run"), "optim.steps": "2", "run.validate_every": "0"}
    assert train_multiview.main([f"--{key}={value}" for key, value in settings.items()]) == 0
    assert (folder / "run" / "validation-000002.png").exists()
    assert train_multiview.main(["export", str(folder / "run"), "--output", str(folder / "exported")]) == 0
    return folder / "exported"


def test_export_is_fp16_safetensors(exported: Path) -> None:
    from safetensors.torch import load_file

    files = sorted(exported.rglob("*.safetensors"))
    assert len(files) == 3
    assert {str(t.dtype) for file in files for t in load_file(file).values()} == {"torch.float16"}
    assert not [p for p in exported.rglob("*") if p.suffix in (".bin", ".pkl", ".pt", ".pth")]


def test_orbit_from_one_image(exported: Path, tmp_path: Path) -> None:
    output = tmp_path / "orbit"
    arguments = ["--image", str(REPO / "assets/car.png"), "--camera", str(REPO / "assets/car.json")]
    arguments += ["--checkpoint", str(exported), "--output", str(output), "--num-views", "5", "--steps", "2"]
    assert infer_multiview.main(arguments) == 0
    assert [p.name for p in sorted((output / "frames").iterdir())] == [f"{i:03d}.png" for i in range(5)]
    with av.open(str(output / "orbit.mp4")) as video:
        assert video.streams.video[0].codec_context.name == "h264"
        assert len(list(video.decode(video=0))) == 5
    assert Image.open(output / "contact_sheet.png").size[0] > 100
    cameras = json.loads((output / "cameras.json").read_text())
    assert len(cameras["frames"]) == 5
    run = json.loads((output / "run.json").read_text())
    assert run["settings"]["seed"] == 0
    assert run["settings"]["steps"] == 2


def test_same_seed_same_frames(exported: Path, tmp_path: Path) -> None:
    frames = []
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        arguments = ["--image", str(REPO / "assets/car.png"), "--checkpoint", str(exported), "--num-views", "2"]
        infer_multiview.main([*arguments, "--output", str(tmp_path / name), "--steps", "2", "--seed", seed])
        frames.append((tmp_path / name / "frames/001.png").read_bytes())
    assert frames[0] == frames[1] != frames[2]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_makes_the_same_pictures(exported: Path, tmp_path: Path, dtype: str) -> None:
    """`--dtype` ended with a traceback, always."""
    frames = []
    for name in (dtype, "float32"):
        arguments = ["--image", str(REPO / "assets/car.png"), "--checkpoint", str(exported), "--num-views", "2"]
        infer_multiview.main([*arguments, "--output", str(tmp_path / name), "--steps", "2", "--dtype", name])
        frames.append(np.asarray(Image.open(tmp_path / name / "frames/001.png")).astype(float))
    assert np.abs(frames[0] - frames[1]).mean() <= 1
    assert json.loads((tmp_path / dtype / "run.json").read_text())["settings"]["dtype"] == dtype


@pytest.mark.parametrize("stopped_after", [3, 4, 7])
def test_a_stopped_sequence_goes_on_to_the_same_files(
    exported: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stopped_after: int,
) -> None:
    """It began anew, and wiped what was there."""
    from mvgenvs.results import ResultsFolder

    def infer(output: str, *more: str) -> None:
        words = [
            "--image",
            str(REPO / "assets/car.png"),
            "--checkpoint",
            str(exported),
            "--output",
            str(tmp_path / output),
        ]
        infer_multiview.main([*words, "--num-views", "7", "--block", "2", "--steps", "2", *more])

    def add(self: ResultsFolder, index: int, *pictures: torch.Tensor) -> None:
        if len(added) == stopped_after:
            raise KeyboardInterrupt
        added.append(index)
        original(self, index, *pictures)

    infer("whole")
    original, added = ResultsFolder.add, []
    monkeypatch.setattr(ResultsFolder, "add", add)
    if stopped_after < 7:
        with pytest.raises(SystemExit):
            infer("out")
    else:  # when all views are there
        with monkeypatch.context() as patch, pytest.raises(SystemExit):
            patch.setattr(ResultsFolder, "summarize", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            infer("out")
    assert "the same command continues from there" in capsys.readouterr().err
    finished, stopped_after = stopped_after // 2 * 2 if stopped_after < 7 else 7, 99
    infer("out")
    assert f"Continuing after {finished} of 7 views." in capsys.readouterr().out
    assert added[-(7 - finished) or len(added) :] == list(range(finished, 7))
    assert json.loads((tmp_path / "out/run.json").read_text())["views_of_a_stopped_run"] == finished
    for name in [*(f"frames/{i:03d}.png" for i in range(7)), "contact_sheet.png", "orbit.mp4", "cameras.json"]:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert not (tmp_path / "out/partial").exists()


def test_a_stopped_sequence_of_other_settings_begins_anew_and_says_so(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mvgenvs.results import ResultsFolder

    picture = tmp_path / "car.png"
    picture.write_bytes((REPO / "assets/car.png").read_bytes())
    words = ["--image", str(picture), "--checkpoint", str(exported), "--output", str(tmp_path / "out")]
    words += ["--num-views", "3", "--block", "1", "--steps", "2"]

    def stop() -> None:
        with monkeypatch.context() as patch, pytest.raises(SystemExit):
            patch.setattr(ResultsFolder, "summarize", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            infer_multiview.main(words)

    stop()
    with pytest.raises(UserError, match="no churn"):
        infer_multiview.main([*words, "--sampler", "dpmpp-2m", "--churn", "1"])
    assert len(list((tmp_path / "out/partial/frames").iterdir())) == 3, "what can't be run wipes nothing"
    infer_multiview.main([*words, "--seed", "1"])
    assert "were made with other settings (seed)" in capsys.readouterr().out
    stop()
    Image.open(picture).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(picture)
    infer_multiview.main(words)
    assert "were made with other settings (inputs)" in capsys.readouterr().out


def test_unconditional_and_progress(exported: Path, tmp_path: Path) -> None:
    arguments = ["--unconditional", "--checkpoint", str(exported), "--num-views", "3", "--steps", "2"]
    assert infer_multiview.main([*arguments, "--output", str(tmp_path / "u"), "--save-progress"]) == 0
    assert (tmp_path / "u/progress.png").exists()
    assert (tmp_path / "u/progress.mp4").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--size", "64"], "size"),
        (["--attention-backend", "flash9"], "no attention backend"),
        (["--checkpoint", "CONFIGS"], "no mvgenvs pipeline"),
        (["--checkpoint", "OTHER"], "not an mvgenvs pipeline"),
        (["--sampler", "dpmpp-2m", "--churn", "1"], "no churn"),
    ],
)
def test_mistakes_that_need_a_model(exported: Path, tmp_path: Path, arguments: list[str], says: str) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    arguments = [{"CONFIGS": str(REPO / "configs"), "OTHER": str(other)}.get(a, a) for a in arguments]
    base = ["--image", str(REPO / "assets/car.png"), "--checkpoint", str(exported), "--output", str(tmp_path / "o")]
    with pytest.raises(UserError, match=says) as error:
        infer_multiview.main([*base, *arguments])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--config", "missing.yaml"], "cannot read the configuration"),
        (["--optim.stepz", "3"], "optim.stepz"),
        (["--optim.steps", "some"], "'optim.steps' must be int"),
        (["--resume", "later"], "resume"),
        (["export", "/nowhere", "--output", "x"], "no mvgenvs pipeline"),
        (["export"], "required"),
    ],
)
def test_training_mistakes_end_with_code_2_and_one_sentence(arguments: list[str], says: str) -> None:
    done = subprocess.run(
        [sys.executable, "train_multiview.py", *arguments], cwd=REPO, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("script", ["train_multiview.py", "infer_multiview.py"])
def test_help_is_useful(script: str) -> None:
    done = subprocess.run([sys.executable, script, "--help"], cwd=REPO, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) > 25


@pytest.mark.parametrize(
    "module", ["infer_multiview", "train_multiview", "eval.run", "eval.score", "mvgenvs.data.opencars"]
)
def test_help_imports_nothing_heavy(module: str) -> None:
    code = (
        "import runpy, sys\n"
        "heavy = ('torch', 'diffusers', 'numpy', 'cv2')\n"
        "try:\n"
        f"    sys.argv = ['script', '--help']; runpy.run_module({module!r}, run_name='__main__')\n"
        "finally:\n"
        "    print('heavy:', [name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout
    assert done.stdout.splitlines()[-1] == "heavy: []"


def test_names_that_help_repeats_are_those_that_there_are() -> None:
    from eval import cli, methods, protocols
    from eval.metrics import suite
    from mvgenvs import perceptual
    from mvgenvs.data import srn_writer
    from mvgenvs.data.opencars import __main__ as opencars
    from mvgenvs.data.opencars.categories import CATEGORIES

    assert (cli.METRICS, cli.DEFAULT_METRICS) == (suite.METRICS, suite.DEFAULT_METRICS)
    assert cli.ROWS == methods.ROWS
    assert tuple(protocols.PROTOCOLS) == cli.PROTOCOLS
    assert cli.NETS == perceptual.NETS
    assert sorted(CATEGORIES) == sorted(opencars.CATEGORIES)
    assert opencars.FORMATS == srn_writer.FORMATS


def test_a_reader_that_has_seen_enough_is_no_failure():
    """As in `python -m eval.compare A B | head`."""
    code = "from mvgenvs.cli import run_script; run_script(lambda: print('\\n'.join('x' * 100000)))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0
