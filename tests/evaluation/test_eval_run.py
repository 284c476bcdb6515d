"""A whole evaluation, on cars of one colour each and a pipeline that answers with its input and some noise."""

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from toy_eval import CONSISTENCY, OBJECTS, FakePipeline, read_summary

from eval import run
from eval.directions import angles_to_nearest
from eval.methods import copy_nearest, sample_seed
from eval.metrics.features import FeatureExtractor
from eval.metrics.frechet import Moments, frechet_distance
from eval.report.records import RunFolder
from mvgenvs.cameras import Cameras, look_at_origin
from mvgenvs.diffusion.options import SamplingOptions
from mvgenvs.errors import UserError
from mvgenvs.folders import OwnFolder
from mvgenvs.views import ViewSet


def test_a_run_leaves_figures_report_and_sheets(
    arguments: Callable[..., list[str]], pipeline: FakePipeline, tmp_path: Path
) -> None:
    run.main(arguments("--steps", "3"))
    summary = read_summary(tmp_path / "report")
    assert [record["object"] for record in summary["objects"]] == list(OBJECTS)
    assert summary["num_images"] == 3 * 23
    assert list(summary["table"]) == ["copy-nearest", "nerf", "independent", "joint", "truth"]
    assert summary["table"]["joint"]["psnr"] > summary["table"]["independent"]["psnr"]
    assert summary["table"]["joint"]["psnr"] == pytest.approx(
        np.mean([np.mean(record["figures"]["joint"]["psnr"]) for record in summary["objects"]])
    )
    assert summary["joint_independent_difference"] > 0
    assert {options["joint"] for options in pipeline.calls} == {True, False}
    assert all(options["num_inference_steps"] == 3 for options in pipeline.calls)
    assert "| joint |" in (tmp_path / "report" / "report.md").read_text()
    for name in ("best", "median", "worst"):
        assert cv2.imread(str(tmp_path / "report" / f"{name}.png")) is not None


def test_truth_has_the_consistency_that_methods_are_read_beside_and_no_quality(
    arguments: Callable[..., list[str]], pipeline: FakePipeline, tmp_path: Path
) -> None:
    run.main(arguments("--num-objects", "1", "--metrics", "consistency"))
    summary = read_summary(tmp_path / "report")
    (record,) = summary["objects"]
    assert set(record["figures"]["truth"]) == CONSISTENCY
    assert len(record["figures"]["truth"]["tsed"]) == 22
    assert set(record["figures"]["joint"]) == {"psnr", "ssim"} | CONSISTENCY
    assert 0 <= summary["table"]["truth"]["tsed"] <= 1
    assert summary["table"]["truth"]["warp-psnr"] is None  # no depth here
    assert summary["table"]["truth"]["flicker"] is None  # no LPIPS here
    assert "the data have no depth" in (tmp_path / "report" / "report.md").read_text()


@pytest.mark.parametrize("killed_at", [1, 3])
def test_a_killed_run_resumes_to_the_identical_table(
    arguments: Callable[..., list[str]],
    pipeline: FakePipeline,
    tiny_features: FeatureExtractor,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    killed_at: int,
) -> None:
    words = ("--metrics", "fd", "--methods", "independent", "joint")
    pipeline.killed_at = killed_at  # in the first object, or in the second
    with pytest.raises(SystemExit):
        run.main(arguments(*words))
    assert len(list((tmp_path / "report" / "objects").glob("*.json"))) == killed_at // 2
    pipeline.killed_at, before = None, len(pipeline.calls)
    capsys.readouterr()
    run.main(arguments(*words))
    resumed = capsys.readouterr().out
    assert len(pipeline.calls) - before == 2 * (3 - killed_at // 2)  # finished objects are not sampled again
    run.main(arguments(*words, output="another"))
    assert capsys.readouterr().out == resumed
    one, another = read_summary(tmp_path / "report"), read_summary(tmp_path / "another")
    assert one["objects"] == another["objects"]
    assert one["table"] == another["table"]
    assert [path.name for path in (tmp_path / "report").rglob(".*")] == [".mvgenvs"]  # no unfinished files


def test_distances_between_distributions_see_all_images_of_the_run(
    arguments: Callable[..., list[str]], pipeline: FakePipeline, tiny_features: FeatureExtractor, tmp_path: Path
) -> None:
    run.main(arguments("--metrics", "fd", "--methods", "nerf", "truth"))
    folder = RunFolder(tmp_path / "report")
    features = {
        row: torch.cat([folder.features(name, "FD-effnet", row) for name in OBJECTS]) for row in ("nerf", "truth")
    }
    assert len(features["nerf"]) == len(features["truth"]) == 3 * 23
    table = read_summary(tmp_path / "report")["table"]
    expected = frechet_distance(Moments.of(features["nerf"]), Moments.of(features["truth"]))
    assert table["nerf"]["fd-effnet"] == pytest.approx(expected, rel=1e-9)
    assert "fd-effnet" not in table["truth"]
    assert "69 generated against 69 true images" in (tmp_path / "report" / "report.md").read_text()


def test_several_samples_never_change_the_figures_of_one(
    arguments: Callable[..., list[str]], pipeline: FakePipeline, tmp_path: Path
) -> None:
    words = ("--num-objects", "1", "--methods", "nerf", "joint")
    run.main(arguments(*words, output="one"))
    run.main(arguments(*words, "--samples", "4", output="four"))
    one, four = read_summary(tmp_path / "one"), read_summary(tmp_path / "four")
    assert not any("best" in metric or "mean" in metric for metric in one["table"]["joint"])
    for metric, figure in one["table"]["joint"].items():
        assert four["table"]["joint"][metric] == figure
    joint = four["objects"][0]["figures"]["joint"]
    assert all(best >= single for best, single in zip(joint["psnr-best"], joint["psnr"], strict=True))
    assert np.mean(joint["psnr-best"]) > np.mean(joint["psnr"])
    assert np.mean(joint["psnr-of-mean"]) > np.mean(joint["psnr-best"])  # independent noise averages out
    assert "psnr-best" not in four["table"]["nerf"]  # draws no samples
    report = (tmp_path / "four" / "report.md").read_text()
    first, second = report.split("## Of 4 samples")
    assert "best PSNR" not in first
    assert "best PSNR" in second


def test_srn_takes_two_inputs_and_predicts_the_others(
    arguments: Callable[..., list[str]], pipeline: FakePipeline, srn_data: Path, tmp_path: Path
) -> None:
    words = ("--data", str(srn_data), "--protocol", "srn", "--inputs", "2", "--methods", "copy-nearest", "joint")
    run.main(arguments(*words))
    record = read_summary(tmp_path / "report")["objects"][0]
    assert record["input_view_ids"] == [64, 104]
    assert record["target_view_ids"] == [0, 30, 110]
    assert record["angles"] == pytest.approx(
        [126.7, 67.1, 67.1], abs=0.1
    )  # 144 and 72 degrees of azimuth, at 20 of elevation
    assert {options["num_known"] for options in pipeline.calls} == {2}


def test_renders_alone_take_few_steps(arguments: Callable[..., list[str]], pipeline: FakePipeline) -> None:
    run.main(arguments("--methods", "nerf", "--num-objects", "1"))
    assert [options["num_inference_steps"] for options in pipeline.calls] == [2]


@pytest.mark.parametrize(
    ("change", "named"),
    [(["--seed", "1"], "seed"), (["--samples", "2"], "num_samples"), (["--metrics", "consistency"], "metrics")],
)
def test_other_settings_need_another_folder(
    arguments: Callable[..., list[str]], pipeline: FakePipeline, change: list[str], named: str
) -> None:
    run.main(arguments("--num-objects", "1"))
    with pytest.raises(UserError, match=rf"other settings \({named}\): choose another --output"):
        run.main(arguments("--num-objects", "1", *change))


def test_settings_that_fail_claim_nothing(
    arguments: Callable[..., list[str]], pipeline: FakePipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`--sampler foo --output d` made `d` that of a run with the sampler foo, and the right command was refused."""

    def refuse(self: FakePipeline, *_: Any, sampler: str, **__: Any) -> SimpleNamespace:
        SamplingOptions(sampler=sampler)
        return answer(self, *_, sampler=sampler, **__)

    answer = FakePipeline.__call__
    monkeypatch.setattr(FakePipeline, "__call__", refuse)
    words = ("--num-objects", "1", "--methods", "joint")
    with pytest.raises(UserError, match="no sampler 'foo'"):
        run.main(arguments(*words, "--sampler", "foo"))
    run.main(arguments(*words))
    assert read_summary(tmp_path / "report")["settings"]["sampling"]["sampler"] == "euler"


@pytest.mark.parametrize("name", ["report.md", "best.png", "objects/car_a.json", "objects", "settings.json"])
def test_files_of_others_are_not_replaced(
    arguments: Callable[..., list[str]], pipeline: FakePipeline, tmp_path: Path, name: str
) -> None:
    mine = tmp_path / "report" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("{}")
    with pytest.raises(UserError, match=r"was not written by this program|holds a run with other settings"):
        run.main(arguments("--num-objects", "1", "--methods", "copy-nearest"))
    assert [path for path in (tmp_path / "report").rglob("*") if path.is_file()] == [mine]
    assert mine.read_text() == "{}"


def test_a_report_of_a_version_that_kept_no_list_goes_on(
    arguments: Callable[..., list[str]], pipeline: FakePipeline, tmp_path: Path
) -> None:
    words = arguments("--num-objects", "2", "--methods", "joint")
    run.main(words)
    (tmp_path / "report" / ".mvgenvs").unlink()
    calls = len(pipeline.calls)
    run.main(words)
    assert len(pipeline.calls) == calls


def test_two_evaluations_never_share_a_folder_unasked(
    arguments: Callable[..., list[str]], pipeline: FakePipeline, tmp_path: Path
) -> None:
    with OwnFolder(tmp_path / "report"), pytest.raises(UserError, match="another run is writing to --output"):
        run.main(arguments("--num-objects", "1"))
    assert pipeline.calls == []


def test_each_sample_of_each_object_has_its_own_noise() -> None:
    seeds = {sample_seed(seed, name, number) for seed in (0, 1) for name in OBJECTS for number in range(3)}
    assert len(seeds) == 18
    assert sample_seed(0, "car_a", 1) == sample_seed(0, "car_a", 1)


def test_angles_are_those_to_the_nearest_input() -> None:
    def cameras(azimuths: list[float]) -> Cameras:
        az = torch.tensor(azimuths) * math.pi / 180
        centers = torch.stack([az.sin(), torch.zeros_like(az), -az.cos()], dim=-1)
        return Cameras(look_at_origin(centers), torch.eye(3).repeat(len(az), 1, 1), (2, 2))

    angles = angles_to_nearest(cameras([0, 90]), cameras([350, 50, 90, 225]))
    assert angles == pytest.approx([10, 40, 0, 135], abs=0.05)


def test_copy_nearest_takes_the_image_seen_from_the_nearest_direction() -> None:
    def views(azimuths: list[float], values: list[float]) -> ViewSet:
        az = torch.tensor(azimuths) * math.pi / 180
        centers = torch.stack([az.sin(), torch.zeros_like(az), -az.cos()], dim=-1)
        cameras = Cameras(look_at_origin(centers), torch.eye(3).repeat(len(az), 1, 1), (2, 2))
        return ViewSet(torch.tensor(values)[:, None, None, None].expand(-1, 3, 2, 2), cameras)

    copied = copy_nearest(views([0, 90], [0.1, 0.9]), views([350, 50, 130], [0.0, 0.0, 0.0]).cameras)
    assert copied[:, 0, 0, 0].tolist() == pytest.approx([0.1, 0.9, 0.9])
