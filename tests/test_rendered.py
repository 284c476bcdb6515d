"""Renderings that are kept: what they hold, which sets a step gets, what may go with them, and exact resumption."""

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_training import assert_equal, weights
from tiny import tiny_config, tiny_parts, write_srn

from mvgenvs.config import LossConfig, TrainConfig
from mvgenvs.errors import UserError
from mvgenvs.nerf import model
from mvgenvs.nerf.model import ViewNeRF
from mvgenvs.parts import checkpoints
from mvgenvs.pipeline import MultiViewPipeline
from mvgenvs.training import loop, trainer
from mvgenvs.training.objective import Objective
from mvgenvs.training.rendered import RenderedSets, rendered_sets

COUNT = 6


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "CELL", 0.1)


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    data = write_srn(tmp_path / "data", {"train": 3}, views=6)
    MultiViewPipeline.from_parts(tiny_parts()).save_pretrained(tmp_path / "start")
    config = tiny_config(data, tmp_path / "run")
    return replace(
        config,
        data=replace(config.data, renderings=COUNT),
        loss=LossConfig(denoise=1.0, noise_draws=2),
        optim=replace(config.optim, steps=4),
        run=replace(config.run, train=("denoiser",), init_from=str(tmp_path / "start"), checkpoint_every=100),
    )


def kept(config: TrainConfig) -> tuple[RenderedSets, Objective]:
    scenes, sets = trainer.open_data(config)
    objective = Objective(trainer.make_parts(config, scenes)[0], config)
    return rendered_sets(trainer.make_accelerator(config), objective, sets, scenes, config)[0], objective


def test_a_kept_rendering_is_that_of_its_set_in_16_bits(config: TrainConfig) -> None:
    rendered, objective = kept(config)
    batch = rendered.collate([rendered[0], rendered[1]])
    for place, number in enumerate(rendered.members(0)):
        own = rendered.sets.collate([rendered.sets[number]])
        assert torch.equal(batch.views.images[place], own.views.images[0])
        assert torch.equal(batch.views.cameras.c2w[place], own.views.cameras.c2w[0])
        with torch.no_grad():
            expected = objective.eval().rendered(own)
        for name in ("features", "depth", "opacity"):
            ours, theirs = getattr(batch.rendering, name)[place], getattr(expected, name)[0]
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
            assert ours.std() > 0


def test_a_step_gets_different_sets_of_as_many_known_views_and_new_noise(config: TrainConfig) -> None:
    rendered, _ = kept(config)
    met, seeds = Counter(), set()
    for step in range(60):
        batch = rendered.collate([rendered[2 * step], rendered[2 * step + 1]])
        numbers = rendered.members(step)
        assert len(set(numbers)) == 2
        assert {rendered.known[number] for number in numbers} == {batch.num_known}
        met.update(numbers)
        seeds.update(batch.seeds)
    assert set(met) == set(range(COUNT)) and max(met.values()) < 4 * min(met.values())
    assert len(seeds) == 120
    again = RenderedSets(rendered.sets, rendered.folder, COUNT)
    assert again.members(17) == rendered.members(17) and again[35].sample.seed == rendered[35].sample.seed


def test_the_loss_is_that_of_rendering_anew(config: TrainConfig) -> None:
    """The same sets and draws: nothing is lost but what 16 bits cannot hold."""
    rendered, objective = kept(replace(config, loss=replace(config.loss, input_noise=0.0)))
    batch = rendered.collate([rendered[0], rendered[1]])
    with torch.no_grad():
        ours = objective.eval()(batch, 0.0)
        losses = []
        for _ in range(2):
            fresh = rendered.sets.collate([rendered.sets[n] for n in rendered.members(0)])
            assert torch.equal(fresh.views.images, batch.views.images)
            rendering = objective.rendered(fresh)
            losses.append(objective(replace(batch, rendering=rendering), 0.0)["denoise"])
    assert ours.keys() == {"denoise"}
    torch.testing.assert_close(ours["denoise"], losses[0], rtol=5e-3, atol=0.0)


def test_training_renders_before_its_first_step_and_never_again(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = ViewNeRF.render, []
    monkeypatch.setattr(ViewNeRF, "render", lambda *a, **k: calls.append(1) or original(*a, **k))
    assert trainer.train(config, resume=False) == 0
    assert len(calls) == COUNT
    lines = (Path(config.run.output) / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["rendering"] for line in lines] == [0.0] * 4
    plan = json.loads((Path(config.run.output) / "renderings/plan.json").read_text())
    assert plan["count"] == COUNT


def test_resume_equals_uninterrupted(config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped between two renderings, and between two steps."""

    def stop_after_two(*args: object, **options: object) -> Iterator[loop.StepReport]:
        for report in original(*args, **options):
            if report.step == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            yield report

    def killed(self: ViewNeRF, *args: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return render(self, *args, **options)

    original, render, calls = loop.train, ViewNeRF.render, []
    whole = replace(config, run=replace(config.run, output=str(tmp_path / "whole")))
    assert trainer.train(whole, resume=False) == 0
    monkeypatch.setattr(ViewNeRF, "render", killed)
    with pytest.raises(SystemExit):
        trainer.train(config, resume=True)
    monkeypatch.setattr(loop, "train", stop_after_two)
    assert trainer.train(config, resume=True) == 1
    assert checkpoints(tmp_path / "run")[-1].name == "checkpoint-000002"
    monkeypatch.setattr(loop, "train", original)
    torch.manual_seed(9)
    assert trainer.train(config, resume=True) == 0
    assert len(calls) == COUNT + 1
    assert_equal(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def test_renderings_of_another_field_are_refused(config: TrainConfig, tmp_path: Path) -> None:
    kept(config)
    MultiViewPipeline.from_parts(tiny_parts(seed=1)).save_pretrained(tmp_path / "start")
    with pytest.raises(UserError, match="another model"):
        kept(config)
    with pytest.raises(UserError, match="another model"):
        kept(replace(config, run=replace(config.run, seed=1)))


def test_a_damaged_rendering_is_named(config: TrainConfig) -> None:
    rendered, _ = kept(config)
    (rendered.folder / f"{rendered.members(0)[0]:06d}.safetensors").write_bytes(b"zero")
    with pytest.raises(UserError, match="damaged"):
        rendered[0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: replace(c, run=replace(c.run, train=("nerf", "denoiser"))), "the denoiser alone"),
        (lambda c: replace(c, loss=replace(c.loss, rgb=1.0)), "the denoiser alone"),
        (lambda c: replace(c, loss=replace(c.loss, denoise=0.0, perceptual=0.0, rgb=1.0)), "the denoiser alone"),
        (lambda c: replace(c, data=replace(c.data, on_device=True)), "from the disk"),
    ],
)
def test_what_does_not_go_with_them_is_one_sentence(config: TrainConfig, change: object, says: str) -> None:
    with pytest.raises(UserError, match=says):
        trainer.train(change(config), resume=False)


def test_few_sets_still_fill_a_batch(config: TrainConfig) -> None:
    rendered, _ = kept(replace(config, data=replace(config.data, renderings=1)))
    assert rendered.members(5) == [0, 0]
    assert np.array_equal(rendered.known, [rendered.sets.draw(0).num_known])
