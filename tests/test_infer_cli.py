"""The command line of `infer_multiview.py`: files that it leaves, and mistakes that are one sentence and exit code 2.

The model is a stand-in that repeats its input; tests with real models are elsewhere.
"""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import av
import cv2
import numpy as np
import pytest
import torch
from tiny import tiny_pipeline
from torch._dynamo.exc import TorchDynamoException

import infer_multiview
from mvgenvs import generation
from mvgenvs.diffusion import options as sampling_options
from mvgenvs.diffusion.plans import PLANS, make_plan
from mvgenvs.diffusion.state import SequenceState
from mvgenvs.errors import UserError
from mvgenvs.pipeline import MultiViewPipeline

ROOT = Path(__file__).parent.parent
CAR, CAMERA = str(ROOT / "assets/car.png"), str(ROOT / "assets/car.json")


class RepeatingPipeline:
    """Has the interface of `MultiViewPipeline`; every view is its first input; remembers how it was called."""

    size = 32
    config: ClassVar[dict] = {"default_steps": 20, "default_guidance": 1.5, "default_render_sigma": None}
    resolved = MultiViewPipeline.resolved
    scheduler = SimpleNamespace(config={"sigma_max": 8.0, "rho": 7.0})
    calls: ClassVar[list[dict]] = []

    @classmethod
    def from_pretrained(cls, checkpoint, attention_backend=None):
        return cls()

    def to(self, device):
        return self

    def set_precision(self, dtype):
        assert dtype == torch.float32

    def stream(self, images, cameras, target_cameras, *, plan, num_inference_steps, on_step, resume, **settings):
        self.calls.append({"images": images, "cameras": cameras, "targets": target_cameras, "plan": plan, **settings})
        num_known = 0 if images is None else images.shape[1]
        blocks = [[view - num_known for view in block.new] for block in plan]
        for number, indices in list(enumerate(blocks))[resume.finished if resume else 0 :]:
            shown = torch.ones(1, 1, 3, 32, 32) if images is None else images[:, :1, :3]
            shown = shown.repeat(1, len(indices), 1, 1, 1)
            for step in range(num_inference_steps):
                progress = {"block": number, "num_blocks": len(blocks), "step": step, "num_steps": num_inference_steps}
                on_step(SimpleNamespace(**progress, sigma=1.0, denoised=lambda shown=shown: shown))
            depth, state = torch.ones_like(shown[:, :, :1]), SequenceState(number + 1, {})
            yield SimpleNamespace(indices=indices, images=shown, renders=shown, depth=depth, state=state)


@pytest.fixture
def pipeline(monkeypatch):
    monkeypatch.setattr(generation, "MultiViewPipeline", RepeatingPipeline)
    monkeypatch.setattr(generation, "fastest_precision", lambda *_: torch.float32)
    RepeatingPipeline.calls.clear()
    return RepeatingPipeline


def infer(*arguments):
    return infer_multiview.main([str(a) for a in arguments])


def test_compilation_is_asked_for_and_its_failure_is_one_sentence(tmp_path, pipeline, monkeypatch):
    compiled = []
    denoiser = SimpleNamespace(compile_network=lambda: compiled.append(True))
    monkeypatch.setattr(pipeline, "denoiser", denoiser, raising=False)
    arguments = ["--image", CAR, "--camera", CAMERA, "--output", tmp_path / "out", "--num-views", 4]
    assert infer(*arguments) == 0 and not compiled
    assert infer(*arguments, "--compile") == 0 and compiled

    def stream(*_, **__):
        raise TorchDynamoException("no working compiler\nand a long story")

    monkeypatch.setattr(pipeline, "stream", stream)
    with pytest.raises(UserError, match=r"^torch\.compile failed, run without it: no working compiler$"):
        infer(*arguments, "--compile")


def test_results_and_record(tmp_path, pipeline, capsys):
    options = ["--output", tmp_path / "out", "--num-views", 5, "--steps", 2, "--seed", 7, "--save-progress"]
    assert infer("--image", CAR, "--camera", CAMERA, *options) == 0
    names = {path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")}
    progress = {"progress.png", "progress.mp4"}
    assert names == {"frames", "orbit.mp4", "contact_sheet.png", "cameras.json", "run.json"} | progress
    assert len(list((tmp_path / "out/frames").iterdir())) == 5
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert record["settings"]["seed"] == 7
    assert record["settings"]["size"] == 32
    assert record["versions"]["torch"] == torch.__version__
    assert record["peak_memory_bytes"]["host"] > 0
    assert set(record["seconds"]) == {"load", "generate", "per_view", "files"}
    assert "5 views" in capsys.readouterr().out


def test_arguments_reach_the_pipeline(tmp_path, pipeline):
    choices = ["--plan", "autoregressive", "--renoise", "fixed", "--sampler", "heun", "--guidance", 2.5, "--anchors", 3]
    infer("--image", CAR, "--camera", CAMERA, "--output", tmp_path, "--num-views", 9, "--seed", 5, *choices)
    call = pipeline.calls[0]
    assert call["images"].shape == (1, 1, 4, 32, 32), "with its matte"
    assert call["cameras"].hw == call["targets"].hw == (32, 32)
    assert call["cameras"].K[0, 0, 0, 0] == pytest.approx(131.25 / 4)
    expected = {"renoise": "fixed", "sampler": "heun", "guidance_scale": 2.5}
    assert {key: call[key] for key in expected} == expected
    assert call["plan"] == make_plan("autoregressive", 1, 9, anchors=3, seed=5)
    settings = json.loads((tmp_path / "run.json").read_text())["settings"]
    assert (settings["plan"], settings["block"], settings["anchors"]) == ("autoregressive", 1, 3)


@pytest.mark.parametrize(
    ("choices", "start", "sigma_max"),
    [
        ([], "noise", 8.0),
        (["--start", "render"], "render", 8.0),
        (["--start", "render", "--sigma-max", 0.5], "render", 0.5),
    ],
)
def test_where_sampling_starts_is_passed_on_and_recorded(tmp_path, pipeline, choices, start, sigma_max):
    infer("--image", CAR, "--output", tmp_path, "--num-views", 2, *choices)
    settings = json.loads((tmp_path / "run.json").read_text())["settings"]
    for found in (pipeline.calls[0], settings):
        assert (found["start"], found["sigma_max"]) == (start, sigma_max)


@pytest.mark.parametrize("plan", PLANS)
def test_every_plan_leaves_all_frames_and_its_progress(tmp_path, pipeline, plan):
    source = ["--unconditional"] if plan == "unconditional" else ["--image", CAR]
    options = ["--output", tmp_path, "--num-views", 7, "--steps", 2, "--save-progress", "--close-loop"]
    assert infer(*source, "--plan", plan, *options) == 0
    assert len(list((tmp_path / "frames").iterdir())) == 7
    blocks = pipeline.calls[0]["plan"]
    assert blocks[-1].again
    with av.open(str(tmp_path / "progress.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 2 * len(blocks)


SAMPLED = {
    "sampler": [{"sampler": "euler"}, {"sampler": "heun"}, {"sampler": "dpmpp-2m"}],
    "anchor level": [{"anchor_level": "matched"}, {"anchor_level": "clean"}],
    "start": [{"start": "noise"}, {"start": "render"}],
    "plan": [{"plan": plan} for plan in PLANS if plan != "unconditional"],
}


@pytest.mark.usefixtures("no_grad")
@pytest.mark.parametrize("choice", SAMPLED)
def test_each_choice_is_sampled_as_the_pipeline_samples_it(tmp_path, monkeypatch, choice):
    """By real networks: frames are those of the same call from Python, and each way of sampling makes others."""
    given, made = [], []
    stream = MultiViewPipeline.stream

    def watched(self, *inputs, **options):
        given.append((self, inputs))
        return stream(self, *inputs, **options)

    monkeypatch.setattr(MultiViewPipeline, "stream", watched)
    tiny_pipeline().save_pretrained(tmp_path / "model")
    fixed = ["--image", CAR, "--camera", CAMERA, "--checkpoint", tmp_path / "model", "--steps", 3]
    views = 5 if choice == "plan" else 3
    for number, asked in enumerate(SAMPLED[choice]):
        settings = {"plan": "sliding", "block": 2} | asked
        if settings["plan"] in ("joint", "autoregressive"):  # which choose the block
            del settings["block"]
        words = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", value)]
        infer(*fixed, "--num-views", views, "--seed", 5, "--output", tmp_path / str(number), *words)
        pipeline, inputs = given[-1]
        generator = torch.Generator().manual_seed(5)
        expected = pipeline(*inputs, generator=generator, num_inference_steps=3, **settings).images
        files = sorted((tmp_path / str(number) / "frames").iterdir())
        found = np.stack([cv2.imread(str(path))[..., ::-1] for path in files])
        made.append(torch.from_numpy(found).movedim(-1, 1) / 255)
        assert (made[-1] - expected[0]).abs().max() <= 0.5 / 255 + 1e-6
    assert min((a - b).abs().max() for a, b in itertools.combinations(made, 2)) > 2 / 255


def test_plans_that_can_be_asked_for_are_those_that_there_are():
    assert tuple(PLANS) == sampling_options.PLANS


def test_keyframes_are_near_in_direction(tmp_path, pipeline):
    infer("--image", CAR, "--output", tmp_path, "--num-views", 24, "--plan", "keyframes", "--anchors", 2)
    assert next(block for block in pipeline.calls[0]["plan"] if 1 in block.new).anchors == (0, 3, 22)


def test_the_plan_is_shown_and_nothing_else_done(tmp_path, pipeline, capsys):
    shown = ["--image", CAR, "--output", tmp_path, "--num-views", 6, "--plan", "keyframes", "--show-plan"]
    assert infer(*shown) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["0", "1", "4", "i0", "i0"]
    assert {path.name for path in tmp_path.iterdir()} == {"plan.png", ".mvgenvs"}
    assert pipeline.calls == []
    assert infer(*shown) == 0


def test_a_plan_is_not_drawn_over_a_picture_of_others(tmp_path, pipeline):
    (tmp_path / "plan.png").write_text("mine")
    with pytest.raises(UserError, match=r"plan\.png was not written by this program"):
        infer("--image", CAR, "--output", tmp_path, "--num-views", 6, "--show-plan")
    assert (tmp_path / "plan.png").read_text() == "mine"


def test_the_input_survives_in_the_output_folder(tmp_path, pipeline):
    """`mkdir -p p/frames; cp car.png p/frames/0001.png` and --output p deleted the picture, exit 0."""
    picture = Path(CAR).read_bytes()
    (tmp_path / "p/frames").mkdir(parents=True)
    for name in ("p/car.png", "p/frames/0001.png"):
        (tmp_path / name).write_bytes(picture)
    with pytest.raises(UserError, match="frames was not written by this program"):
        infer("--image", tmp_path / "p/frames/0001.png", "--output", tmp_path / "p", "--num-views", 2)
    assert pipeline.calls == []
    assert (tmp_path / "p/frames/0001.png").read_bytes() == picture
    shutil.rmtree(tmp_path / "p/frames")
    assert infer("--image", tmp_path / "p/car.png", "--output", tmp_path / "p", "--num-views", 2) == 0
    assert (tmp_path / "p/car.png").read_bytes() == picture
    with pytest.raises(UserError, match="is where a result would be written"):
        infer("--image", tmp_path / "p/frames/001.png", "--output", tmp_path / "p", "--num-views", 2)


def test_a_second_run_into_the_same_folder_is_refused(tmp_path, pipeline, monkeypatch):
    def stream(self, *arguments, **settings):
        monkeypatch.undo()
        with pytest.raises(UserError, match="another run is writing to --output"):
            infer("--image", CAR, "--output", tmp_path, "--num-views", 2)
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(pipeline, "stream", stream)
    with pytest.raises(SystemExit) as stopped:
        infer("--image", CAR, "--output", tmp_path, "--num-views", 2)
    assert stopped.value.code == 130


def test_assumed_camera_is_said(tmp_path, pipeline, capsys):
    infer("--image", CAR, "--output", tmp_path, "--num-views", 2)
    assert "No --camera" in capsys.readouterr().out


def test_several_known_views_each_take_the_camera_that_follows(tmp_path, pipeline):
    infer("--image", CAR, "--image", CAR, "--camera", CAMERA, "--output", tmp_path, "--num-views", 2)
    centers = pipeline.calls[0]["cameras"].centers[0]
    assert centers.shape == (2, 3)
    assert not torch.allclose(centers[0], centers[1], atol=1e-2), "the first has the canonical camera, not the file's"


def test_circle_is_drawn_around_the_input(tmp_path, pipeline):
    infer("--image", CAR, "--camera", CAMERA, "--trajectory", "circle", "--output", tmp_path, "--num-views", 6)
    call = pipeline.calls[0]
    middle = call["targets"].centers[0].mean(dim=0)
    assert torch.nn.functional.cosine_similarity(middle, call["cameras"].centers[0, 0], dim=0) > 0.999


def test_trajectory_out_of_an_earlier_run(tmp_path, pipeline):
    infer("--image", CAR, "--output", tmp_path / "a", "--num-views", 3)
    infer("--image", CAR, "--output", tmp_path / "b", "--trajectory", tmp_path / "a/cameras.json")
    first, second = (call["targets"].c2w for call in pipeline.calls)
    torch.testing.assert_close(first, second)


def test_unconditional_needs_no_image(tmp_path, pipeline):
    infer("--unconditional", "--output", tmp_path, "--num-views", 2)
    assert pipeline.calls[0]["images"] is None


def test_out_of_memory_names_the_flags_that_help(tmp_path, pipeline, monkeypatch):
    def starve(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        yield

    monkeypatch.setattr(pipeline, "stream", starve)
    with pytest.raises(UserError, match=r"--block.*--dtype.*--size"):
        infer("--image", CAR, "--output", tmp_path, "--num-views", 2)


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
