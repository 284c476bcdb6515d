"""The denoiser's error on noised true views: modes differ in one thing only, and see what sampling sees."""

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_parts, tiny_pipeline, write_srn
from tiny_sd import write_sd

from attention import PROCESSORS
from eval import study
from eval.protocols import ORBIT_TARGETS, orbit_views
from eval.report import plots
from eval.studies import denoising_errors, levels
from eval.studies.denoising_errors import (
    ALONE,
    MODES,
    RENDERING,
    SETS,
    SIGMAS,
    UNTRAINED,
    DenoiserInputs,
    Mode,
    SetErrors,
    denoised_error,
    prepare_inputs,
)
from mvgenvs.data.scenes import open_scenes
from mvgenvs.data.stored import CachedScenes
from mvgenvs.diffusion.options import CLEAN_SIGMA
from mvgenvs.diffusion.stable.checkpoint import load_stable_diffusion
from mvgenvs.errors import UserError
from mvgenvs.parts import Parts
from mvgenvs.pipeline import MultiViewPipeline

CLEAN, MATCHED = Mode("clean", input=True, neighbours=4), Mode("matched", input=True, anchor_level="matched")
SECOND = SETS[1]


pytestmark = pytest.mark.usefixtures("no_grad")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_srn(tmp_path_factory.mktemp("data"), {"val": 2}, views=ORBIT_TARGETS + 1)


@pytest.fixture(scope="module")
def scenes(data) -> CachedScenes:
    return open_scenes(data, "val", 32)


@pytest.fixture(scope="module")
def pipeline() -> MultiViewPipeline:
    """Not to be changed."""
    made = tiny_pipeline()
    made.codec.fit(torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def shown(pipeline, scenes) -> DenoiserInputs:
    with torch.no_grad():
        return prepare_inputs(pipeline, scenes, 0, 0)[1]


@pytest.fixture
def little(monkeypatch):
    """Two noise levels and two sets are measured."""
    monkeypatch.setattr(denoising_errors, "SIGMAS", (0.5, 8.0))
    monkeypatch.setattr(denoising_errors, "SETS", SETS[-2:])


def copied(pipeline: MultiViewPipeline) -> MultiViewPipeline:
    """With a denoiser that a test may change."""
    return MultiViewPipeline.from_parts(Parts(pipeline.codec, pipeline.nerf, deepcopy(pipeline.denoiser)))


def calls_of(pipeline, monkeypatch) -> list[tuple]:
    """What the denoiser is given from now on: latents, noise levels, conditions, and how it is to look at them."""
    calls, forward = [], pipeline.denoiser.forward
    monkeypatch.setattr(
        pipeline.denoiser, "forward", lambda *args, **how: calls.append((*args, how)) or forward(*args, **how)
    )
    return calls


def test_every_target_is_in_one_set_and_its_neighbours_are_those_before_it():
    assert [view for new in SETS for view in new] == list(range(1, ORBIT_TARGETS + 1))
    assert CLEAN.anchors((5, 6, 7, 8)) == [0, 1, 2, 3, 4]
    assert CLEAN.anchors((1, 2, 3, 4)) == [0, 20, 21, 22, 23], "the orbit is closed"
    assert MATCHED.anchors((5, 6)) == [0]
    assert ALONE.anchors((5, 6)) == []


def test_the_denoiser_is_told_what_sampling_tells_it(pipeline, scenes, shown, monkeypatch):
    views = scenes.load(0)
    task = orbit_views(scenes.objects[0].view_ids, views.cameras)
    calls = calls_of(pipeline, monkeypatch)
    known, targets = views.select(task.inputs), views.select(task.targets[: SECOND[-1]])
    pipeline(
        known.images[None], known.cameras.batched(), targets.cameras.batched(), num_inference_steps=1,
        guidance_scale=2.0, anchor_level="clean",
    )  # fmt: skip
    sampled = calls[1]
    for branch, rendered in enumerate((True, False)):
        denoised_error(pipeline, shown, SECOND, replace(CLEAN, rendered=rendered))
        _, sigma, conditions, how = calls[-1]
        for name in ("maps", "poses", "mean", "std"):
            expected = getattr(sampled[2], name)[branch]
            assert getattr(conditions, name)[-1] == pytest.approx(expected, abs=1e-5), name
        assert sigma[-1].tolist() == pytest.approx(sampled[1][branch].tolist()), "SIGMAS end where sampling starts"
        assert (how["joint"], how["num_anchors"]) == (sampled[-1]["joint"], sampled[-1]["num_anchors"])


def test_ways_share_the_noise_of_the_new_views(pipeline, scenes, shown, monkeypatch):
    calls = calls_of(pipeline, monkeypatch)
    for mode in (ALONE, CLEAN, MATCHED):
        denoised_error(pipeline, shown, SECOND, mode)
    alone, clean, matched = calls
    assert torch.equal(alone[0], clean[0][:, :4]) and torch.equal(alone[0], matched[0][:, :4])
    noise = (alone[0] - shown.latents[:, list(SECOND)]) / torch.tensor(SIGMAS)[:, None, None, None, None]
    assert noise.std(dim=(1, 2, 3, 4)).tolist() == pytest.approx([1] * len(SIGMAS), abs=0.15)
    assert torch.corrcoef(noise.flatten(1)).triu(1).abs().max() < 0.25, "each level has its own"
    assert clean[1][:, 4:].unique().tolist() == pytest.approx([CLEAN_SIGMA])
    assert matched[1][:, 4].tolist() == pytest.approx(SIGMAS)
    for sigma, given in ((CLEAN_SIGMA, clean), (SIGMAS[-1], matched)):
        anchor = given[0][-1, 4] - shown.latents[0, 0]
        assert anchor.std().item() == pytest.approx(sigma, rel=0.3)
    others = [prepare_inputs(pipeline, scenes, *which)[1].noise for which in ((1, 0), (0, 1), (0, 0))]
    assert [torch.equal(shown.noise, other) for other in others] == [False, False, True]


def test_a_view_alone_is_a_set_of_one(pipeline, shown):
    alone, joint = (denoised_error(pipeline, shown, SECOND, Mode("", joint=joint)) for joint in (False, True))
    each = torch.cat([denoised_error(pipeline, shown, [view], Mode("")) for view in SECOND], dim=1)
    assert torch.allclose(alone, each, atol=1e-5)
    assert not torch.allclose(joint, each, atol=1e-3), "in a larger one it sees the others"


def test_errors_are_those_of_the_new_views(pipeline, shown, monkeypatch):
    """A denoiser that knows the truth but for a constant, one for each view."""
    members = [*SECOND, *CLEAN.anchors(SECOND)]
    constants = torch.arange(1.0, len(members) + 1)[None, :, None, None, None]
    monkeypatch.setattr(pipeline.denoiser, "forward", lambda *_, **__: shown.latents[:, members] + constants)
    errors = denoised_error(pipeline, shown, SECOND, CLEAN)
    assert torch.allclose(errors, torch.tensor([[1.0, 2.0, 3.0, 4.0]]), atol=1e-4)


def test_without_the_network_the_denoiser_is_untrained(pipeline, shown):
    zero, trained = (denoised_error(pipeline, shown, SECOND, mode) for mode in (UNTRAINED, ALONE))
    assert not torch.allclose(trained, zero, rtol=0.01)
    untrained = copied(pipeline)
    for weight in untrained.denoiser.unet.conv_out.parameters():
        weight.zero_()
    assert torch.allclose(denoised_error(untrained, shown, SECOND, ALONE), zero)


def test_much_noise_leaves_the_rendering(pipeline, scenes, monkeypatch):
    monkeypatch.setattr(denoising_errors, "SIGMAS", (1e4,))
    (first, *_) = denoising_errors.measure(pipeline, scenes, 1, modes=[UNTRAINED])
    assert first.rmse[UNTRAINED.name] == [pytest.approx(first.rmse[RENDERING][0], rel=1e-3)]


@pytest.mark.parametrize("attention", PROCESSORS)
def test_every_attention_can_be_measured(pipeline, scenes, attention, little):
    pipeline = copied(pipeline)
    pipeline.denoiser.set_attention(attention)
    found = denoising_errors.measure(pipeline, scenes, 1)
    assert [len(errors.view_ids) for errors in found] == [4, 3]
    assert set(found[0].rmse) == {RENDERING, *(mode.name for mode in MODES)}
    assert all(np.shape(e.rmse[name]) == (2, len(e.view_ids)) for e in found for name in e.rmse)
    assert all(np.isfinite(e.rmse[name]).all() for e in found for name in e.rmse)
    joint, alone = found[0].rmse["joint + input"], found[0].rmse[ALONE.name]
    assert np.allclose(joint, alone, atol=1e-5) == (attention == "independent")


@pytest.mark.parametrize("conditioner", ["controlnet", "concat"])
def test_a_denoiser_out_of_stable_diffusion_can_be_measured(scenes, tmp_path, conditioner, little):
    codec, denoiser = load_stable_diffusion(str(write_sd(tmp_path)), conditioner, "a car", 32, 16, 2, "joint")
    parts = replace(tiny_parts(), codec=codec.eval(), denoiser=denoiser.eval())
    (found, *_) = denoising_errors.measure(MultiViewPipeline.from_parts(parts), scenes, 1)
    assert np.mean(found.rmse[UNTRAINED.name], axis=1) == pytest.approx(denoising_errors.SIGMAS, rel=0.15), (
        "it predicts the noise, and none"
    )
    assert all(np.isfinite(figures).all() for figures in found.rmse.values())


def test_views_weigh_alike_within_an_object_and_objects_among_each_other():
    one = [SetErrors("a", [0, 1], {"alone": [[1.0, 2.0]] * 7}), SetErrors("a", [2], {"alone": [[6.0]] * 7})]
    two = [SetErrors("b", [0], {"alone": [[5.0]] * 6 + [[7.0]]})]
    row = levels.table([*one, *two])["alone"]
    assert list(row) == ["0.1", "0.2", "0.5", "1", "2", "4", "8"]
    assert list(row.values()) == [4.0] * 6 + [5.0]


def test_changes_are_taken_set_by_set():
    """A way that is 10 and 20 percent worse has an interval between the two, however much the sets differ."""
    found = [
        SetErrors("a", [0, 1], {"alone": [[x, 3 * x]] * 7, "worse": [[y, 3 * y]] * 7, RENDERING: [[1.0, 1.0]] * 7})
        for x, y in [(1.0, 1.1), (100.0, 120.0)] * 6
    ]
    made = levels.changes(found)
    assert list(made) == ["worse"]
    for change in made["worse"]:
        assert change.mean == pytest.approx(15)
        low, high = change.interval
        assert 10 <= low < 15 < high <= 20
    assert levels.changes(found[:1])["worse"][0].interval is None


def test_the_command_leaves_tables_figures_and_a_plot(data, pipeline, tmp_path, capsys, little):
    pipeline.save_pretrained(tmp_path / "checkpoint")
    made = tmp_path / "new" / "out"
    study.main(["levels", "--checkpoint", str(tmp_path / "checkpoint"), "--data", str(data), "--output", str(made)])
    text = (made / "levels.md").read_text()
    assert text in capsys.readouterr().out
    assert text.count("\n| ") == 2 * 2 + (1 + len(MODES)) + (len(MODES) - 1)
    content = json.loads((made / "levels.json").read_text())
    assert {errors["object"] for errors in content["sets"]} == {"val-0", "val-1"}
    assert content["table"]["joint"] != content["table"][ALONE.name]
    assert len(content["changes"]["joint"]) == len(content["sigmas"]) == 2
    assert (made / "levels.png").exists() == plots.can_plot()
    assert {path.name for path in made.iterdir()} <= {".mvgenvs", "levels.json", "levels.md", "levels.png"}


def test_too_few_views_are_a_user_error(pipeline, tmp_path):
    few = open_scenes(write_srn(tmp_path, {"val": 1}, views=5), "val", 32)
    with pytest.raises(UserError, match=r"val-0: the orbit protocol needs"):
        denoising_errors.measure(pipeline, few, 1)
