"""Plans make every target once, from finished views only, and keep few views at hand however long they are."""

import math

import numpy as np
import pytest

from mvgenvs.diffusion.plan_display import plan_picture, plan_table
from mvgenvs.diffusion.plans import MAX_KEYFRAMES, PLANS, Block, check_plan, independent, last_uses, make_plan
from mvgenvs.errors import UserError

KNOWN = [(plan, known) for plan in PLANS for known in (0, 1, 3) if plan != "unconditional" or known == 0]

PASSES = {"once": {}, "closed": {"close_loop": True}, "resampled": {"resample": 0.1}}
PASSES["closed and resampled"] = PASSES["closed"] | PASSES["resampled"]


@pytest.mark.parametrize("passes", PASSES.values(), ids=PASSES)
@pytest.mark.parametrize(("plan", "known"), KNOWN)
def test_every_plan_makes_each_target_once_from_finished_views(plan, known, passes):
    for targets in (1, 2, 5, 7, 24):
        for block in (None, 1, 3, 8, 30):
            for anchors in (None, 0, 1, 3):
                finished = set(range(known))
                made: list[int] = []
                for current in make_plan(plan, known, targets, block, anchors, **passes):
                    assert current.new
                    assert set(current.anchors) | set(current.known) <= finished - set(current.new)
                    assert len(set(current.anchors)) == len(current.anchors)
                    assert set(range(known)) <= set(current.anchors) & set(current.known)
                    if not current.again:
                        made += current.new
                    finished |= set(current.new)
                assert sorted(made) == list(range(known, known + targets))


def at_hand(plan: list[Block]) -> int:
    """The most finished views that have to be kept between two blocks."""
    last_use = last_uses(plan)
    finished: set[int] = set()
    most = 0
    for number, block in enumerate(plan):
        finished = {view for view in finished | set(block.new) if last_use.get(view, -1) > number}
        most = max(most, len(finished))
    return most


@pytest.mark.parametrize("passes", PASSES.values(), ids=PASSES)
@pytest.mark.parametrize(
    ("plan", "bound"),
    [("sliding", 16), ("autoregressive", 12), ("keyframes", MAX_KEYFRAMES + 8), ("unconditional", 16)],
)
@pytest.mark.parametrize(("block", "anchors"), [(None, None), (8, 2), (2, 3)])
def test_a_thousand_views_need_few_at_hand_and_sets_of_the_usual_size(plan, bound, block, anchors, passes):
    known = 0 if plan == "unconditional" else 1
    short, long = (make_plan(plan, known, n, block, anchors, **passes) for n in (200, 1000))
    waiting = 4 * (block or 4) if "resample" in passes else 0  # blocks that wait for the next one, and a loop's first
    assert at_hand(long) <= bound + waiting
    for part in ("new", "anchors", "known"):
        assert max(len(getattr(b, part)) for b in long) == max(len(getattr(b, part)) for b in short)


def test_last_uses_count_anchors_and_what_the_nerf_is_lifted_from():
    plan = [Block((1,), (0,), (0,)), Block((2,), (1,), (0,)), Block((3,), (), (2,))]
    assert last_uses(plan) == {0: 1, 1: 1, 2: 2}


@pytest.mark.parametrize("step", [15.0, -15.0])
def test_the_end_of_an_orbit_sees_its_beginning(step):
    """The last block of a full turn has its two neighbours on each side; on half a turn, and where all cameras look the
    same way, anchors are the latest views.
    """
    angles = np.radians(step * np.arange(25))  # the input, then 24 targets
    centers = np.stack([np.sin(angles), np.zeros(25), np.cos(angles)], axis=1)
    *before, last = make_plan("sliding", 1, 24, centers=centers)
    assert last == Block((21, 22, 23, 24), (0, 1, 2, 19, 20), (0,))
    assert before[:4] == make_plan("sliding", 1, 24)[:4]
    half = make_plan("sliding", 1, 12, centers=centers[:13])
    assert half == make_plan("sliding", 1, 12)
    backwards = make_plan("sliding", 1, 24, centers=np.linspace(1, 2, 25)[:, None] * centers[:1])
    assert backwards == make_plan("sliding", 1, 24)


def test_sliding_anchors_are_the_latest_views():
    first, second, last = make_plan("sliding", 2, 7, block=3, anchors=2)
    assert (first.new, first.anchors) == ((2, 3, 4), (0, 1))
    assert (second.new, second.anchors) == ((5, 6, 7), (0, 1, 3, 4))
    assert (last.new, last.anchors) == ((8,), (0, 1, 6, 7))
    assert {block.known for block in (first, second, last)} == {(0, 1)}


def test_joint_is_one_set():
    assert make_plan("joint", 2, 11, block=4) == [Block(tuple(range(2, 13)), (0, 1), (0, 1))]


def test_unconditional_makes_pairs_anchored_by_the_pair_before():
    assert make_plan("unconditional", 0, 5) == [Block((0, 1)), Block((2, 3), (0, 1)), Block((4,), (2, 3))]
    with pytest.raises(UserError, match="takes no known views"):
        make_plan("unconditional", 1, 5)


# Autoregressive


def test_autoregressive_lifts_the_nerf_from_its_anchors_the_last_view_always_among_them():
    plan = make_plan("autoregressive", 2, 40)
    assert [block.new for block in plan] == [(view,) for view in range(2, 42)]
    assert all(block.known == block.anchors for block in plan)
    assert all(block.new[0] - 1 in block.known for block in plan[1:])
    assert {len(block.known) for block in plan[5:]} == {2 + 4 + 1}


def test_autoregressive_respects_the_size_of_a_block():
    plan = make_plan("autoregressive", 1, 10, block=4)
    assert [len(block.new) for block in plan] == [4, 4, 2]
    assert 4 in plan[1].anchors
    assert 8 in plan[2].anchors


def test_earlier_views_are_a_uniform_choice_that_the_seed_decides():
    """Every view before the last is as likely to be in the reservoir: 4 of 12."""
    counts, trials = np.zeros(12), 400
    for seed in range(trials):
        *earlier, last = make_plan("autoregressive", 0, 14, seed=seed)[-1].known
        assert last == 12
        assert len(earlier) == 4
        counts[earlier] += 1
    assert np.abs(counts / trials - 1 / 3).max() < 4 * math.sqrt(1 / 3 * 2 / 3 / trials)  # 4 standard deviations
    first, again, other = (make_plan("autoregressive", 1, 30, seed=seed) for seed in (7, 7, 8))
    assert first == again != other


# Keyframes


def ring(count: int, turns: float = 1.0) -> np.ndarray:
    angles = 2 * np.pi * turns * np.arange(count) / count
    return np.stack([np.sin(angles), 0 * angles, np.cos(angles)], axis=-1)


def test_keyframes_come_first_evenly_spread_and_the_rest_between_them():
    plan = make_plan("keyframes", 1, 24, block=3)
    keys, others = plan[:2], plan[2:]
    assert [view for block in keys for view in block.new] == [3, 7, 11, 15, 19, 23]
    assert keys[1].anchors == (0, 3, 7, 11)
    rest = [view for block in others for view in block.new]
    assert rest == sorted(rest)
    for block in others[1:-1]:
        assert {block.new[0] - 1, block.new[-1] + 1} <= set(block.anchors), "it lies between its two keyframes"


def test_keyframes_near_in_direction_count_not_those_near_in_number():
    """On a loop the first and the last keyframe are neighbours, and on two turns the views of the other turn."""
    by_index = make_plan("keyframes", 0, 24, block=3, anchors=2)
    by_direction = make_plan("keyframes", 0, 24, block=3, anchors=2, centers=ring(24))
    assert by_index[2].anchors == (2, 6)
    assert by_direction[2].anchors == (2, 22)
    twice = make_plan("keyframes", 0, 48, block=3, anchors=4, centers=ring(48, turns=2))
    middle = next(block for block in twice if 12 in block.new)
    assert middle.anchors == (10, 14, 34, 38)


def test_a_gap_longer_than_a_block_goes_on_from_its_own_last_view():
    plan = make_plan("keyframes", 0, 1000, block=4)
    continued = [block for block in plan[MAX_KEYFRAMES // 4 :] if block.new[0] > 0]
    assert len(continued) > 200
    assert all(block.new[0] - 1 in block.anchors for block in continued)


# Loops


def test_closing_a_loop_makes_the_first_views_again_between_the_last_and_the_following():
    *before, last = make_plan("sliding", 1, 12, block=4, close_loop=True)
    assert before == make_plan("sliding", 1, 12, block=4)
    assert last == Block((1, 2, 3, 4), (0, 5, 6, 11, 12), (0,), again=True)


def test_a_loop_of_one_set_is_closed_as_it_is():
    assert make_plan("sliding", 1, 4, block=4, close_loop=True) == make_plan("sliding", 1, 4, block=4)


def test_a_view_made_again_does_not_shape_its_own_nerf():
    plan = make_plan("autoregressive", 1, 6, close_loop=True)
    assert 1 in plan[-2].known
    assert plan[-1].new == (1,)
    assert 1 not in plan[-1].known


def test_resampling_makes_each_few_views_again_once_their_neighbours_are_there():
    plan = make_plan("sliding", 1, 8, block=2, resample=0.1)
    again = [block for block in plan if block.again]
    assert [block for block in plan if not block.again] == make_plan("sliding", 1, 8, block=2)
    assert [(block.new, block.anchors) for block in again] == [
        ((1, 2), (0, 3)), ((3, 4), (0, 2, 5)), ((5, 6), (0, 4, 7)), ((7, 8), (0, 6))
    ]  # fmt: skip
    assert all((block.known, block.sigma, block.stochastic) == ((0,), 0.1, False) for block in again)
    assert [block.new for block in plan[:4]] == [(1, 2), (3, 4), (1, 2), (5, 6)], "as soon as it can be"


def test_resampling_a_closed_loop_takes_neighbours_across_its_ends():
    *before, last = make_plan("sliding", 1, 8, block=2, resample=0.1, close_loop=True)
    assert (last.new, last.anchors) == ((7, 8), (0, 1, 6))
    assert next(block for block in before if block.sigma and 1 in block.new).anchors == (0, 3, 8)


def test_what_is_made_again_from_itself_is_kept_until_then():
    plan = [Block((1,)), Block((2,)), Block((1,), again=True, sigma=0.1), Block((2,), again=True)]
    assert last_uses(plan) == {1: 2}


def test_one_set_has_no_neighbours_to_be_resampled_between():
    assert make_plan("sliding", 1, 4, block=4, resample=0.1) == make_plan("sliding", 1, 4, block=4)


def test_the_baseline_has_no_anchors_and_the_known_views_alone():
    plan = make_plan("autoregressive", 2, 5, close_loop=True)
    assert independent(plan, 2) == [Block((view,), (), (0, 1)) for view in range(2, 7)]


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("zigzag", 1, 4), "zigzag"),
        (("sliding", 1, 0), "at least one target"),
        (("sliding", 1, 4, 0), "blocks of at least one view"),
        (("sliding", 1, 4, 2, -1), "anchors"),
        (("sliding", 9, 4), "from 9 views, the model takes 8"),
    ],
)
def test_impossible_plans_are_user_errors(arguments, message):
    with pytest.raises(UserError, match=message):
        make_plan(*arguments)


FIRST = Block((1, 2), (0,), (0,))
MISTAKES = {
    "a view that does not exist": ([FIRST, Block((3,), (7,))], "block 1 of the plan names view 7, .* 0 to 3"),
    "a negative view": ([FIRST, Block((3,), (), (-1,))], "names view -1"),
    "an unfinished anchor": ([Block((1, 2), (3,)), Block((3,))], "block 0 of the plan needs view 3 finished"),
    "an unfinished known view": ([Block((1, 2), (), (3,)), Block((3,))], "needs view 3 finished"),
    "its own anchor": ([FIRST, Block((3,), (3,))], "needs view 3 finished"),
    "a known view made": ([Block((0, 1)), Block((2, 3))], "makes view 0, which is a known view"),
    "a view forgotten": ([FIRST], "never makes view 3"),
    "nothing": ([], "never makes view 1"),
    "an empty block": ([FIRST, Block(()), Block((3,))], "block 1 of the plan makes no view"),
    "a view made twice": ([FIRST, Block((2, 3), (1,))], "makes view 2 a second time"),
    "a view twice in a block": ([FIRST, Block((3, 3))], "names a view twice: 3, 3"),
    "an anchor twice": ([FIRST, Block((3,), (1, 1))], "names a view twice: 1, 1"),
    "a level of what is made first": ([Block((1, 2, 3), sigma=0.1)], "block 0 of the plan has sigma 0.1"),
    "no level": ([FIRST, Block((3,)), Block((3,), again=True, sigma=0.0)], "block 2 of the plan has sigma 0.0"),
    "again what was not made": ([FIRST, Block((3,), again=True)], "makes view 3 again, but no earlier block does"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_each_mistake_in_a_plan_of_ones_own_is_named(name):
    plan, message = MISTAKES[name]
    with pytest.raises(UserError, match=message) as caught:
        check_plan(plan, 1, 3)
    assert "\n" not in str(caught.value)


def test_a_plan_of_ones_own_may_make_views_in_any_order_and_again():
    check_plan([Block((3,)), Block((1, 2), (3, 0), (0, 3)), Block((3,), (1,), again=True)], 1, 3)


# Showing


def test_a_plan_reads_as_a_table_with_the_numbers_of_frames():
    lines = plan_table(make_plan("sliding", 1, 10, block=4, close_loop=True), num_known=1).splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["0", "0-3", "i0", "i0"],
        ["1", "4-7", "i0", "0-3", "i0"],
        ["2", "8-9", "i0", "4-7", "i0"],
        ["3", "0-3", "again", "i0", "4-5", "8-9", "i0"],
    ]
    assert lines[0].index("anchored by") == lines[2].index("i0 0-3")
    assert plan_table([Block((0,))], 0).splitlines()[1].split() == ["0", "0", "-", "-"]


def test_a_plan_is_drawn_with_a_row_per_block_and_a_column_per_view():
    plan = make_plan("sliding", 1, 60, block=4, close_loop=True)
    assert len(plan) == 16
    picture = plan_picture(plan, 1)
    side = 20
    body = picture[-16 * side - 6 : -6, 6 : 6 + 61 * side]
    cells = body[side // 4 :: side, side // 4 :: side].astype(int)
    made = {tuple(cells[0, view]) for view in range(1, 5)}
    assert len(made) == 1, "the first block makes views 1 to 4"
    assert tuple(cells[0, 0]) == tuple(cells[1, 1]) == tuple(cells[1, 4]), "anchors"
    assert tuple(cells[2, 1]) not in {tuple(cells[1, 1]), tuple(cells[0, 20])}, "finished, but no anchor any more"
    assert tuple(cells[0, 5]) == (255, 255, 255), "not made yet"
    assert tuple(cells[15, 1]) not in made, "made again"


def test_a_long_plan_still_fits_into_a_picture():
    assert max(plan_picture(make_plan("sliding", 1, 2000), 1).shape) < 4100
