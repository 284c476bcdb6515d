"""The length of a stage: a warm-up, a cosine that ends at zero, and minutes that become steps once."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny import tiny_config

from mvgenvs.errors import UserError
from mvgenvs.training import schedule
from mvgenvs.training.schedule import ENDLESS, PLAN, UNTIMED, StageLength


class Clock:
    """Stands where it is put."""

    def __init__(self) -> None:
        self.now = 1000.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    out = Clock()
    monkeypatch.setattr(schedule, "time", SimpleNamespace(perf_counter=out.perf_counter))
    return out


def length(
    run: Path, minutes: float = 0.0, steps: int = 100, warmup: int = 10, agree: Callable[[int], int] = int
) -> StageLength:
    config = tiny_config(output=run)
    optim, run_config = replace(config.optim, steps=steps, warmup=warmup), replace(config.run, minutes=minutes)
    return StageLength(replace(config, optim=optim, run=run_config), agree)


def run_steps(stage: StageLength, clock: Clock, seconds: Callable[[int], float], start: int = 0) -> int:
    step = start
    while step < stage.end:
        step += 1
        clock.now += seconds(step)
        stage.after(step)
    return step


def test_warm_up_then_a_cosine_to_zero(tmp_path: Path) -> None:
    stage = length(tmp_path)
    assert stage.end == 100
    assert [stage.rate(step) for step in (0, 5, 10)] == [0, 0.5, 1]
    assert stage.rate(55) == pytest.approx(0.5)
    assert stage.rate(40) == pytest.approx(0.75)
    assert stage.rate(100) == pytest.approx(0, abs=1e-12)
    assert stage.rate(130) == pytest.approx(0, abs=1e-12)
    rates = [stage.rate(step) for step in range(101)]
    assert rates[:11] == sorted(rates[:11]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert [stage.progress(step) for step in (0, 25, 100)] == [0, 0.25, 1]
    assert length(tmp_path, warmup=0).rate(0) == 1


def test_minutes_become_steps_by_the_median(tmp_path: Path, clock: Clock) -> None:
    """A first step of a minute and some slow ones later are counted as spent, but no step is expected to be as slow."""
    slow = {1: 60.0, 2: 9.0, 5: 20.0, 6: 20.0, 12: 7.0}
    stage, begin = length(tmp_path, minutes=5.0, warmup=20), clock.now
    assert stage.end == ENDLESS
    ends = []

    def seconds(step: int) -> float:
        ends.append(stage.end)
        return slow.get(step, 0.5)

    last = run_steps(stage, clock, seconds)
    assert set(ends[:20]) == {ENDLESS} and len(set(ends[20:])) == 1, "fixed once, before the warm-up is over"
    assert 0 <= 300 - (clock.now - begin) < 0.5
    assert last == stage.end == 20 + int((300 - sum(slow.values()) - 15 * 0.5) / 0.5)
    assert stage.rate(stage.end) == pytest.approx(0, abs=1e-12)
    assert stage.rate(20) == 1


def test_the_first_steps_are_not_timed(tmp_path: Path, clock: Clock) -> None:
    """With a single timed step its time is the median, and it is that of the step after the untimed ones."""
    stage = length(tmp_path, minutes=1.0, warmup=2)
    run_steps(stage, clock, lambda step: 10.0 if step <= UNTIMED else 1.0 if step == UNTIMED + 1 else 99.0)
    assert stage.end == UNTIMED + 1 + 60 - 10 * UNTIMED - 1
    assert json.loads((tmp_path / PLAN).read_text())["seconds_per_step"] == 1.0


def test_a_plan_is_kept_when_the_run_goes_on(tmp_path: Path, clock: Clock) -> None:
    first = length(tmp_path, minutes=1.0)
    run_steps(first, clock, lambda step: 0.25)
    assert json.loads((tmp_path / PLAN).read_text())["steps"] == first.end == 240
    clock.now += 1e4
    again = length(tmp_path, minutes=1.0)
    assert again.end == first.end
    assert [again.rate(step) for step in range(241)] == [first.rate(step) for step in range(241)]
    run_steps(again, clock, lambda step: 5.0, start=100)
    assert again.end == first.end
    assert length(tmp_path, minutes=0.0, steps=7).end == 7, "a plan is of minutes alone"


def test_steps_are_those_that_all_processes_agree_on(tmp_path: Path, clock: Clock) -> None:
    asked = []
    stage = length(tmp_path, minutes=1.0, agree=lambda steps: asked.append(steps) or 33)
    run_steps(stage, clock, lambda step: 0.25)
    assert (asked, stage.end) == ([240], 33)
    assert length(tmp_path, minutes=1.0).end == 33


def test_minutes_that_are_over_already_end_at_the_next_step(tmp_path: Path, clock: Clock) -> None:
    stage = length(tmp_path, minutes=0.1)
    assert run_steps(stage, clock, lambda step: 30.0) == stage.end == 11
    assert stage.rate(11) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    "text", ["", "{", "{}", "null", "[]", '{"steps": null}', '{"steps": "many"}', '{"steps": NaN}']
)
def test_a_damaged_plan_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / PLAN).write_text(text)
    with pytest.raises(UserError, match=f"{PLAN} is damaged"):
        length(tmp_path, minutes=1.0)
