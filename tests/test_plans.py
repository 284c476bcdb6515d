"""Plans make every target once and in order, from finished views only."""

import pytest

from mvgenvs.diffusion.plans import PLANS, make_plan
from mvgenvs.errors import UserError


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("known", [0, 1, 3])
def test_every_plan_makes_each_target_once_from_finished_views(plan, known):
    for targets in range(1, 31):
        for block in (1, 3, 4, 8):
            for anchors in (None, 0, 1, 5):
                finished = set(range(known))
                made: list[int] = []
                for current in make_plan(plan, known, targets, block, anchors):
                    assert current.new
                    assert set(current.anchors) <= finished
                    assert len(set(current.anchors)) == len(current.anchors)
                    assert set(range(known)) <= set(current.anchors)
                    made += current.new
                    finished |= set(current.new)
                assert made == list(range(known, known + targets))


@pytest.mark.parametrize(("block", "anchors"), [(4, None), (8, 2), (1, 3)])
def test_sliding_sets_do_not_grow_with_the_sequence(block, anchors):
    plan = make_plan("sliding", 1, 1000, block, anchors)
    memory = block if anchors is None else anchors
    assert max(len(b.new) + len(b.anchors) for b in plan) == 1 + block + memory
    assert max(b.new[0] - min(b.anchors[1:]) for b in plan if len(b.anchors) > 1) == memory


def test_sliding_anchors_are_the_latest_views():
    first, second, last = make_plan("sliding", 2, 7, block=3, anchors=2)
    assert (first.new, first.anchors) == ((2, 3, 4), (0, 1))
    assert (second.new, second.anchors) == ((5, 6, 7), (0, 1, 3, 4))
    assert (last.new, last.anchors) == ((8,), (0, 1, 6, 7))


def test_joint_is_one_set():
    (block,) = make_plan("joint", 2, 11, block=4)
    assert (block.new, block.anchors) == (tuple(range(2, 13)), (0, 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("zigzag", 1, 4), "zigzag"),
        (("sliding", 1, 0), "at least one target"),
        (("sliding", 1, 4, 0), "blocks of at least one view"),
        (("sliding", 1, 4, 2, -1), "anchors"),
    ],
)
def test_impossible_plans_are_user_errors(arguments, message):
    with pytest.raises(UserError, match=message):
        make_plan(*arguments)
