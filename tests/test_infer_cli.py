"""The command line of `infer_multiview.py`: files that it leaves, and mistakes that are one sentence and exit code 2.

The model is a stand-in that repeats its input; tests with real models are elsewhere.
"""

import itertools
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest
import torch
from repeating import CAMERA, CAR, infer, stand_in
from tiny import tiny_pipeline
from torch._dynamo.exc import TorchDynamoException

from mvgenvs import inputs
from mvgenvs.diffusion import options as sampling_options
from mvgenvs.diffusion.plans import PLANS, make_plan
from mvgenvs.errors import UserError
from mvgenvs.model import MultiViewModel
from mvgenvs.pose.crops import Window
from mvgenvs.pose.estimate import Estimate
from mvgenvs.trajectories import angles_of
from mvgenvs.views import UNKNOWN


@pytest.fixture
def pipeline(monkeypatch):
    return stand_in(monkeypatch)


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
    stream, pipeline = MultiViewModel.stream, tiny_pipeline()

    def watched(self, *inputs, **options):
        given.append(inputs)
        return stream(self, *inputs, **options)

    monkeypatch.setattr(MultiViewModel, "stream", watched)
    pipeline.save_pretrained(tmp_path / "model")
    fixed = ["--image", CAR, "--camera", CAMERA, "--checkpoint", tmp_path / "model", "--steps", 3]
    views = 5 if choice == "plan" else 3
    for number, asked in enumerate(SAMPLED[choice]):
        settings = {"plan": "sliding", "block": 2} | asked
        if settings["plan"] in ("joint", "autoregressive"):  # which choose the block
            del settings["block"]
        words = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", value)]
        infer(*fixed, "--num-views", views, "--seed", 5, "--output", tmp_path / str(number), *words)
        generator = torch.Generator().manual_seed(5)
        expected = pipeline(*given[-1], generator=generator, num_inference_steps=3, **settings).images
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


def test_the_default_camera_is_estimated_where_the_photo_is_cut(tmp_path, pipeline, capsys):
    infer("--image", CAR, "--output", tmp_path / "a", "--num-views", 2)
    assert "Camera estimated" in capsys.readouterr().out
    for number, how in enumerate((["--camera", "canonical"], ["--matte", "none"])):
        infer("--image", CAR, *how, "--output", tmp_path / str(number), "--num-views", 2)
        assert "is assumed to show" in capsys.readouterr().out
        azimuth, elevation = angles_of(pipeline.calls[-1]["cameras"].centers[0, 0])
        assert (azimuth.item(), elevation.item()) == pytest.approx((45, 20), abs=1e-3)


def test_several_known_views_each_take_the_camera_that_follows(tmp_path, pipeline):
    infer("--image", CAR, "--image", CAR, "--camera", CAMERA, "--output", tmp_path, "--num-views", 2)
    centers = pipeline.calls[0]["cameras"].centers[0]
    assert centers.shape == (2, 3)
    assert not torch.allclose(centers[0], centers[1], atol=1e-2), "the first has an estimated camera, not the file's"


def test_the_cut_is_said_recorded_and_shown(tmp_path, pipeline, capsys):
    """The sheet's input cell is the model's image, which is white where the photo's green was cut away."""
    photo = cv2.imread(CAR)
    photo[photo.min(axis=-1) > 250] = (60, 140, 60)
    cv2.imwrite(str(tmp_path / "photo.png"), photo)
    infer("--image", tmp_path / "photo.png", "--output", tmp_path / "a", "--num-views", 2)
    note = "matte: plain background, 16% of the picture"
    assert note in capsys.readouterr().out.splitlines()
    assert note in json.loads((tmp_path / "a/run.json").read_text())["notes"]
    image = pipeline.calls[0]["images"][0, 0]
    assert image[:, 0, 0].tolist() == [1, 1, 1, 0]
    assert (image[3] == 1).any()
    sheet = cv2.imread(str(tmp_path / "a/contact_sheet.png"))
    assert (sheet[20:30, 4:90] == 255).all(), "the cell of the input, above the car"


def test_each_image_has_its_own_matte(tmp_path, pipeline):
    mask = np.zeros((128, 128), np.uint8)
    mask[40:90, 20:60] = 255
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    first = ["--image", CAR, "--matte", tmp_path / "mask.png", "--camera", CAMERA]
    infer(*first, "--image", CAR, "--camera", CAMERA, "--matte", "none", "--output", tmp_path / "a", "--num-views", 2)
    mattes = pipeline.calls[0]["images"][0, :, 3]
    assert mattes[0, 16, 10] == 1 and mattes[0, 4, 10] == mattes[0, 16, 20] == 0
    assert (mattes[1] == UNKNOWN).all()
    cv2.imwrite(str(tmp_path / "a/frames/000.png"), mask)
    with pytest.raises(UserError, match="is where a result would be written"):
        infer("--image", CAR, "--matte", tmp_path / "a/frames/000.png", "--output", tmp_path / "a", "--num-views", 2)


def test_an_estimated_camera_is_used_and_told(tmp_path, pipeline, monkeypatch, capsys):
    found = Estimate(130.0, 5.0, 0.9, -50.0, 10.0, 4.0, 1.6, 0.3, Window(64.0, 70.0, 140.0))
    monkeypatch.setattr(inputs, "estimate_camera", lambda image: found)
    infer("--image", CAR, "--camera", "estimate", "--output", tmp_path, "--num-views", 2)
    azimuth, elevation = angles_of(pipeline.calls[0]["cameras"].centers[0, 0])
    assert (azimuth.item(), elevation.item()) == pytest.approx((130, 10), abs=1e-3)
    assert "azimuth 130 ± 5 degrees, 90% sure, else -50; elevation 10 ± 4" in capsys.readouterr().out


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
