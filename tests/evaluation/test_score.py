"""Scores of views from elsewhere: those of eval.run on the same pictures, in every form, and ranked as they should."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from posed import write_colmap, write_views
from test_captures import in_another_world, wide_cameras
from test_consistency_geometry import orbit_cameras, painted
from tiny import ray_cast, toy_car
from tiny_data import write_capture, write_opencars
from toy_eval import FakePipeline, read_summary

from eval import run, score
from eval.methods import predictions, sample_seed
from eval.metrics import radiance
from eval.metrics.features import FeatureExtractor
from eval.metrics.radiance import FitSettings
from eval.protocols import choose_views
from eval.scoring.folders import open_folder
from eval.scoring.world import ends_where_it_began, in_model_world
from eval.studies.fooling import blurred
from mvgenvs.cameras import Cameras
from mvgenvs.data.srn import SRNScenes
from mvgenvs.perceptual import PerceptualDistance
from mvgenvs.views import ViewSet

QUICK = FitSettings(image_size=32, resolutions=(16,), steps=(60,), rays=(256,))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small radiance field, and mean differences for LPIPS: what is tested here is who is given which views."""
    monkeypatch.setattr(PerceptualDistance, "__call__", lambda self, a, b: (a - b).abs().mean(dim=(1, 2, 3)))
    fit = radiance.fit
    monkeypatch.setattr(radiance, "fit", lambda images, cameras, settings: fit(images, cameras, QUICK))


def scored(folder: Path, *words: str) -> dict:
    output = folder.parent / f"scores of {folder.name}"
    words = (*(() if "--lpips-nets" in words else ("--lpips-nets",)), *words)
    words = (*(() if "--metrics" in words else ("--metrics", "consistency", "3d")), *words)
    score.main([str(folder), "--output", str(output), "--device", "cpu", *words])
    return read_summary(output)


def figures(summary: dict, row: str = "views") -> dict:
    (record,) = summary["objects"]
    return record["figures"][row]


def test_the_figures_are_those_of_eval_run(tmp_path: Path, pipeline: FakePipeline, tiny_features: FeatureExtractor):
    """Of the same pictures, saved with their cameras; the truth holds more views than these."""
    data = write_opencars(tmp_path / "data", {"val": 2}, views=24)
    pipeline.size = 32
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "model.safetensors").write_bytes(b"weights")
    (checkpoint / "model_index.json").write_text("{}")
    metrics = ["--metrics", "fd", "consistency", "3d", "--lpips-nets", "alex"]
    words = [
        "--num-objects",
        "1",
        "--checkpoint",
        str(checkpoint),
        "--data",
        str(data),
        "--split",
        "val",
        "--methods",
        "joint",
        "truth",
    ]
    run.main([*words, *metrics, "--output", str(tmp_path / "run"), "--device", "cpu"])
    evaluated = read_summary(tmp_path / "run")
    scenes = SRNScenes(data, "val", 32)
    write_views(tmp_path / "made" / scenes.objects[0].name, *made_by(pipeline, scenes))
    summary = scored(tmp_path / "made", "--truth", str(data / "cars_val"), *metrics)
    assert summary["table"] == {"views": evaluated["table"]["joint"], "truth": evaluated["table"]["truth"]}
    assert None not in summary["table"]["views"].values()
    (mine,), (theirs,) = summary["objects"], evaluated["objects"]
    assert mine["figures"] == {"views": theirs["figures"]["joint"], "truth": theirs["figures"]["truth"]}
    assert mine["target_view_ids"] == theirs["target_view_ids"]
    assert mine["target_view_ids"] != list(range(23))
    report = (tmp_path / "scores of made" / "report.md").read_text()
    assert report.startswith("# made, against the truth: 1 objects, 23 views")
    assert "by angle" not in report


def made_by(pipeline: FakePipeline, scenes: SRNScenes) -> tuple[torch.Tensor, Cameras]:
    """The views that eval.run has of the first object, and their cameras."""
    item, views = scenes.objects[0], scenes.load(0)
    chosen = choose_views(item, views.cameras)
    known, targets = views.select(chosen.inputs), views.select(chosen.targets)
    ((_, images),) = predictions(pipeline, known, targets.cameras, ("joint",), {}, [sample_seed(0, item.name, 0)])
    return images[0], targets.cameras


@pytest.fixture(scope="module")
def painted_arc() -> ViewSet:
    """A painted object, from a side to the other in steps that a feature detector can follow."""
    return painted(orbit_cameras(8, 10, 96), 90)


def test_truth_joint_blurred_and_shuffled_views_are_ranked(tmp_path: Path, painted_arc: ViewSet):
    truth, generator = painted_arc, torch.Generator().manual_seed(0)
    noise = torch.randn(truth.images.shape, generator=generator)
    good = truth.images + (truth.mask * noise * 0.02)
    rows = {
        "good": good,
        "blurred": blurred(good, 2.0),
        "shuffled": good[[5, 2, 7, 0, 6, 1, 4, 3]],
    }
    write_capture(tmp_path / "truth", truth)
    table = {}
    for name, images in rows.items():
        folder = write_views(tmp_path / name, images.clamp(0, 1), truth.cameras)
        words = ("--truth", str(tmp_path / "truth"), "--metrics", "consistency", "3d", "--lpips-nets", "alex")
        table |= {name: scored(folder, *words)["table"]}
    measured = {name: rows["views"] for name, rows in table.items()} | {"truth": table["good"]["truth"]}

    def falls(metric: str, *names: str) -> bool:
        values = [measured[name][metric] for name in names]
        return all(a > b for a, b in pairwise(values))

    assert falls("psnr", "good", "blurred", "shuffled")
    assert falls("ssim", "good", "blurred", "shuffled")
    assert measured["truth"]["tsed"] == measured["good"]["tsed"] == 1
    assert measured["shuffled"]["tsed"] == 0
    assert falls("tsed-matches", "truth", "good", "blurred")
    assert falls("warp-psnr", "truth", "good", "shuffled")
    assert falls("3d-psnr", "truth", "shuffled") and falls("3d-psnr", "good", "shuffled")
    assert measured["truth"]["flicker"] == 0
    # What fools them: blurred views agree with one another.
    assert falls("warp-psnr", "blurred", "good")
    assert measured["blurred"]["flicker"] < 0 < measured["shuffled"]["flicker"]


FORMS = ("transforms.json", "COLMAP text", "COLMAP binary", "simple COLMAP")


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_scores(tmp_path: Path, form: str):
    views = ray_cast(toy_car(2), orbit_cameras(8, 45, 48))
    expected = scored(write_views(tmp_path / "ours", views.images, views.cameras))
    folder = tmp_path / form
    if form == "transforms.json":
        write_views(folder, views.images, views.cameras, form)
    else:
        model = "SIMPLE_PINHOLE" if form == "simple COLMAP" else "PINHOLE"
        write_colmap(folder, views.images, views.cameras, binary=form == "COLMAP binary", model=model)
    opened = open_folder(folder)
    torch.testing.assert_close(opened.cameras.c2w, views.cameras.c2w, atol=1e-6, rtol=0)
    torch.testing.assert_close(opened.cameras.K, views.cameras.K)
    summary = scored(folder)
    for metric, values in figures(expected).items():
        assert figures(summary)[metric] == pytest.approx(values, abs=0.05), metric
    assert set(figures(summary)) == {"tsed", "tsed-matches", "warp-psnr", "warp-lpips", "flicker", "loop-lpips",
                                     "loop-warp", "3d-psnr"}  # fmt: skip
    assert "they need the true one" in (tmp_path / f"scores of {form}" / "report.md").read_text()


def test_oblong_pictures_of_any_world_are_measured_in_the_models(tmp_path: Path):
    """A world with z up, three times as large, elsewhere: the figures are those of the model's world."""
    cameras = wide_cameras(8)
    views = ray_cast(toy_car(2), cameras)
    for name, world, unit in (("ours", cameras, 0.001 / 3), ("theirs", in_another_world(cameras), 0.001)):
        file = write_capture(tmp_path / "truths" / name, views, world, 3.0) / "transforms.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"depth_unit_scale_factor": unit}))
        write_views(tmp_path / name, (views.images * 0.9).clamp(0, 1), world, "transforms.json")
    mine, theirs = (
        figures(scored(tmp_path / name, "--truth", str(tmp_path / "truths" / name))) for name in ("ours", "theirs")
    )
    for metric, values in mine.items():
        assert theirs[metric] == pytest.approx(values, abs=0.3 if metric == "3d-psnr" else 1e-3), metric
    assert mine["warp-psnr"][0] is not None


def test_cameras_are_moved_so_that_the_object_fills_the_view():
    near = orbit_cameras(8, 45)
    assert in_model_world(near) == (near, 1.0)
    far = Cameras(near.c2w.clone(), near.K.clone(), near.hw)
    far.c2w[:, :3, 3] *= 4
    far.K[:, :2, :2] *= 4  # the same field of view at the object
    moved, scale = in_model_world(far)
    points = torch.rand(1, 20, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    before, after = far.project(points)[0], moved.project(points * scale)[0]
    torch.testing.assert_close(before, after, atol=2e-2, rtol=0)
    assert scale == pytest.approx(1.0, abs=1e-3)
    aside = Cameras(near.c2w[:1].repeat(3, 1, 1), near.K[:3], near.hw)
    assert in_model_world(aside) is None


@pytest.mark.parametrize(
    ("count", "degrees", "closed"), [(24, 15, True), (23, 15, True), (4, 90, True), (12, 15, False), (10, 30, False)]
)
def test_an_orbit_is_closed_and_an_arc_is_not(count: int, degrees: float, closed: bool):
    assert ends_where_it_began(orbit_cameras(count, degrees)) == closed


def test_larger_truth_is_scaled_down_and_said_sizes_are_recorded(tmp_path: Path):
    large, small = (ray_cast(toy_car(2), orbit_cameras(4, 90, size)) for size in (96, 48))
    write_capture(tmp_path / "truth", large)
    halved = F.avg_pool2d(large.images, 2)
    summary = scored(write_views(tmp_path / "made", halved, small.cameras), "--truth", str(tmp_path / "truth"))
    assert summary["settings"]["image_sizes"] == {"made": [48, 48]}
    assert min(figures(summary)["psnr"]) > 45  # but for the rounding


def test_backgrounds_other_than_white_have_no_3d_score_and_it_is_said(tmp_path: Path):
    views = ray_cast(toy_car(2), orbit_cameras(4, 90, 48))
    grey = torch.where(views.mask > 0, views.images, 0.4)
    summary = scored(write_views(tmp_path / "grey", grey, views.cameras))
    assert "3d-psnr" not in figures(summary)
    assert "grey has no 3-D score: its background is not white" in (tmp_path / "scores of grey/report.md").read_text()


def test_a_second_scoring_replaces_the_first_and_leaves_no_other_object(tmp_path: Path):
    views = ray_cast(toy_car(2), orbit_cameras(4, 90, 48))
    for name in ("a", "b"):
        write_views(tmp_path / "made" / name, views.images, views.cameras)
    assert len(scored(tmp_path / "made", "--metrics", "consistency")["objects"]) == 2
    (tmp_path / "made/b/cameras.json").unlink()
    output = tmp_path / "scores of made"
    assert len(scored(tmp_path / "made", "--metrics", "consistency")["objects"]) == 1
    assert sorted(path.name for path in (output / "objects").iterdir()) == ["a.json", "a.png"]
    assert json.loads((output / "metrics.json").read_text())["settings"]["truth"] is None
