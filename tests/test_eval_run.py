"""A whole evaluation, on cars of one colour each and a pipeline that answers with its input and some noise."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from eval import run
from eval.methods import COPY, copy_nearest
from mvgenvs.cameras import Cameras, look_at_origin
from mvgenvs.errors import UserError, run_script
from mvgenvs.views import ViewSet

SIZE, VIEWS, OBJECTS = 16, 40, ("car_a", "car_b", "car_c")


class FakePipeline:
    """Copies the first known image into every view; less noise on it with joint denoising than without."""

    size = SIZE
    config = SimpleNamespace(default_steps=20, default_guidance=1.5)

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __call__(
        self,
        images: torch.Tensor,
        cameras: Cameras,
        target_cameras: Cameras,
        generator: torch.Generator,
        **options: Any,
    ) -> SimpleNamespace:
        assert images.shape[:2] == cameras.c2w.shape[:2] == (1, 1)
        self.calls.append(options)
        clean = images[:, :1].expand(-1, target_cameras.num_views, -1, -1, -1)
        noise = torch.randn(clean.shape, generator=generator)
        return SimpleNamespace(images=clean + (0.05 if options["joint"] else 0.1) * noise, renders=clean + 0.2)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    az, el = np.linspace(0, 2 * np.pi, VIEWS, endpoint=False), np.deg2rad(20)
    centers = 1.3 * np.stack([np.cos(el) * np.sin(az), np.full(VIEWS, np.sin(el)), -np.cos(el) * np.cos(az)], axis=-1)
    poses = look_at_origin(torch.from_numpy(centers)).numpy()
    generator = np.random.default_rng(0)
    for name in OBJECTS:
        folder = root / "cars_test" / name
        for part in ("rgb", "pose"):
            (folder / part).mkdir(parents=True)
        (folder / "intrinsics.txt").write_text(f"16.4 8 8 0.\n0 0 0\n1.\n{SIZE} {SIZE}\n")
        image = generator.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        for view in range(VIEWS):
            cv2.imwrite(str(folder / "rgb" / f"{view:06d}.png"), image // 2 + view)
            (folder / "pose" / f"{view:06d}.txt").write_text(" ".join(map(str, poses[view].flatten())))
    return root


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> FakePipeline:
    fake = FakePipeline()
    monkeypatch.setattr(run, "load_pipeline", lambda folder, device: fake)
    return fake


@pytest.fixture
def arguments(data: Path, tmp_path: Path) -> Callable[..., list[str]]:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "model.safetensors").write_bytes(b"weights")
    (checkpoint / "model_index.json").write_text("{}")

    def build(*more: str, output: str = "report") -> list[str]:
        common = ["--checkpoint", str(checkpoint), "--data", str(data), "--lpips-nets", "--device", "cpu"]
        return [*common, "--output", str(tmp_path / output), *more]

    return build


def test_a_run_leaves_figures_report_and_sheets(
    arguments: Callable[..., list[str]], pipeline: FakePipeline, tmp_path: Path
) -> None:
    run.main(arguments("--steps", "3"))
    summary = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert [record["object"] for record in summary["objects"]] == list(OBJECTS)
    assert summary["num_images"] == 3 * 23
    assert list(summary["means"]) == ["copy-nearest", "nerf", "independent", "joint"]
    assert summary["means"]["joint"]["psnr"] > summary["means"]["independent"]["psnr"]
    assert summary["means"]["joint"]["psnr"] == pytest.approx(
        np.mean([np.mean(record["figures"]["joint"]["psnr"]) for record in summary["objects"]])
    )
    assert summary["joint_independent_difference"] > 0
    assert {options["joint"] for options in pipeline.calls} == {True, False}
    assert all(options["num_inference_steps"] == 3 for options in pipeline.calls)
    assert "| joint |" in (tmp_path / "report" / "report.md").read_text()
    for name in ("best", "median", "worst"):
        assert cv2.imread(str(tmp_path / "report" / f"{name}.png")) is not None


def test_an_interrupted_run_resumes_to_the_identical_table(
    arguments: Callable[..., list[str]], pipeline: FakePipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run.main(arguments("--num-objects", "2"))
    done = len(pipeline.calls)
    capsys.readouterr()
    run.main(arguments())
    resumed = capsys.readouterr().out
    assert len(pipeline.calls) - done == done // 2  # the third object alone
    run.main(arguments(output="another"))
    assert capsys.readouterr().out == resumed
    objects = [json.loads((tmp_path / name / "metrics.json").read_text())["objects"] for name in ("report", "another")]
    assert objects[0] == objects[1]


def test_renders_alone_take_few_steps(arguments: Callable[..., list[str]], pipeline: FakePipeline) -> None:
    run.main(arguments("--methods", "nerf", "--num-objects", "1"))
    assert [options["num_inference_steps"] for options in pipeline.calls] == [2]


def test_other_settings_need_another_folder(arguments: Callable[..., list[str]], pipeline: FakePipeline) -> None:
    run.main(arguments("--num-objects", "1"))
    with pytest.raises(UserError, match=r"other settings \(seed\): choose another --output"):
        run.main(arguments("--num-objects", "1", "--seed", "1"))


@pytest.mark.parametrize(
    ("mistake", "sentence"),
    [
        (["--protocol", "circle"], "invalid choice: 'circle'"),
        (["--methods", "magic"], "invalid choice: 'magic'"),
        (["--num-objects", "0"], "0 is not a whole number above 0"),
        (["--steps", "x"], "x is not a whole number"),
        (["--nonsense"], "unrecognized arguments"),
        (["--data", "nowhere"], "nowhere"),
        (["--split", "val"], "cars_val"),
        (["--checkpoint", "nowhere"], "neither a folder nor a model"),
        (["--protocol", "srn"], "view 000064"),
        (["--output", __file__], "choose another --output"),
    ],
)
def test_mistakes_give_one_sentence_and_exit_2(
    arguments: Callable[..., list[str]],
    pipeline: FakePipeline,
    capsys: pytest.CaptureFixture[str],
    mistake: list[str],
    sentence: str,
) -> None:
    with pytest.raises(SystemExit) as exit_:
        run_script(lambda: run.main(arguments(*mistake)))
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert exit_.value.code == 2
    assert last.startswith("error: ")
    assert sentence in last
    assert "usage" not in last


def test_missing_lpips_weights_leave_the_other_metrics(
    arguments: Callable[..., list[str]], pipeline: FakePipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run.main(arguments("--num-objects", "1", "--lpips-nets", "alex", "--lpips-trunks", str(tmp_path)))
    assert "going on without LPIPS-alex" in capsys.readouterr().err
    figures = json.loads((tmp_path / "report" / "metrics.json").read_text())["means"][COPY]
    assert set(figures) == {"psnr", "ssim"}


def test_copy_nearest_takes_the_image_seen_from_the_nearest_direction() -> None:
    def views(azimuths: list[float], values: list[float]) -> ViewSet:
        az = torch.tensor(azimuths) * math.pi / 180
        centers = torch.stack([az.sin(), torch.zeros_like(az), -az.cos()], dim=-1)
        cameras = Cameras(look_at_origin(centers), torch.eye(3).repeat(len(az), 1, 1), (2, 2))
        return ViewSet(torch.tensor(values)[:, None, None, None].expand(-1, 3, 2, 2), cameras)

    copied = copy_nearest(views([0, 90], [0.1, 0.9]), views([350, 50, 130], [0.0, 0.0, 0.0]))
    assert copied[:, 0, 0, 0].tolist() == pytest.approx([0.1, 0.9, 0.9])
