"""Occupancy: rays keep what they meet and lose the air around it, and pictures stay as they were."""

from collections.abc import Callable

import pytest
import torch
from tiny import Solid, ring_cameras, stacked

from mvgenvs.nerf.model import CELL, ViewNeRF
from mvgenvs.nerf.occupancy import STEPS, Occupancy, find_occupancy
from mvgenvs.nerf.renderer import Bounds, box_bounds

RADIUS, EXTENT = 0.52, (0.32, 0.32, 0.5)
CELLS = tuple(round(2 * half / CELL) for half in EXTENT)
SOLIDS = [
    Solid((0.1, -0.05, 0.2), 0.12, (0.2, 0.4, 0.6)),  # off centre, so that no axis may be taken for another
    Solid((-0.12, 0.1, -0.2), (0.06, 0.15, 0.1), (0.6, 0.1, 0.2)),
]
CPU = torch.device("cpu")


def within(solid: Solid, points: torch.Tensor) -> torch.Tensor:
    local = points - torch.tensor(solid.center)
    if isinstance(solid.size, float):
        return local.norm(dim=-1) < solid.size
    return (local.abs() < torch.tensor(solid.size)).all(dim=-1)


def density(*solids: Solid) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda points: 1e3 * sum(within(solid, points).float() for solid in solids).clamp(max=1)


def occupancy(*solids: Solid) -> Occupancy:
    return find_occupancy(density(*solids), 1, CELLS, EXTENT, CPU) if solids else empty()


def empty() -> Occupancy:
    return find_occupancy(lambda points: torch.full(points.shape[:-1], 0.1), 1, CELLS, EXTENT, CPU)


def rays(count: int = 4000) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    origins = torch.randn(1, count, 3, generator=generator)
    origins = origins / origins.norm(dim=-1, keepdim=True) * 1.3
    aims = (torch.rand(1, count, 3, generator=generator) * 2 - 1) * torch.tensor(EXTENT)
    return origins, torch.nn.functional.normalize(aims - origins, dim=-1)


def entry_and_exit(solid: Solid, origins: torch.Tensor, directions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Infinite where the ray misses. The exit is the entry of the ray that comes from the other side."""
    length = 3.0
    back = solid.hit(origins + length * directions, -directions)
    return solid.hit(origins, directions), torch.where(back.isfinite(), length - back, torch.inf)


@pytest.mark.parametrize("solid", SOLIDS)
def test_rays_keep_what_they_meet_and_little_else(solid: Solid) -> None:
    origins, directions = rays()
    whole = box_bounds(origins, directions, RADIUS, EXTENT)
    tight = occupancy(solid).tightened(whole, origins, directions)
    first, last = entry_and_exit(solid, origins, directions)
    meets = first.isfinite()
    assert 200 < meets.sum() < 3000
    assert (tight.hits[meets] == 1).all()
    assert (tight.near <= first + 1e-5)[meets].all()
    assert (tight.far >= last - 1e-5)[meets].all()
    assert (tight.near >= whole.near).all() and (tight.far <= whole.far).all()
    # Two cells around the solid may count as occupied, and a step before and after them is kept.
    cell = 2 * max(half / n for half, n in zip(EXTENT, CELLS, strict=True))
    around = 2 * cell + 1e-4
    wider = Solid(solid.center, grown(solid.size, around * 3**0.5), solid.colour)
    outer_first, outer_last = entry_and_exit(wider, origins, directions)
    step = (whole.far - whole.near) / STEPS
    assert (tight.near >= outer_first - step - 1e-5)[meets].all()
    assert (tight.far <= outer_last + step + 1e-5)[meets].all()
    beside = outer_first.isinf()
    assert beside.sum() > 200
    assert (tight.hits[beside] == 0).all()
    assert ((tight.far - tight.near) / (whole.far - whole.near))[meets].mean() < 0.6


def grown(size: float | tuple[float, float, float], by: float) -> float | tuple[float, float, float]:
    return size + by if isinstance(size, float) else tuple(half + by for half in size)


def test_from_the_first_solid_to_the_last() -> None:
    """A ray that meets both keeps the air between them."""
    a, b = (torch.tensor(solid.center) for solid in SOLIDS)
    directions = torch.nn.functional.normalize(b - a, dim=0)[None, None]
    origins = a - directions
    whole = box_bounds(origins, directions, RADIUS, EXTENT)
    tight = occupancy(*SOLIDS).tightened(whole, origins, directions)
    assert tight.near.item() <= SOLIDS[0].hit(origins, directions).item()
    assert tight.far.item() >= entry_and_exit(SOLIDS[1], origins, directions)[1].item()


def test_scenes_of_a_batch_are_kept_apart() -> None:
    both = find_occupancy(
        lambda points: torch.cat([density(solid)(points[[i]]) for i, solid in enumerate(SOLIDS)]),
        2, CELLS, EXTENT, CPU,
    )  # fmt: skip
    for number, solid in enumerate(SOLIDS):
        assert torch.equal(both.cells[[number]], occupancy(solid).cells)
    origins, directions = (x.expand(2, -1, -1) for x in rays(500))
    tight = both.tightened(box_bounds(origins, directions, RADIUS, EXTENT), origins, directions)
    for number, solid in enumerate(SOLIDS):
        one = [x[[number]] for x in (origins, directions)]
        alone = occupancy(solid).tightened(box_bounds(*one, RADIUS, EXTENT), *one)
        assert torch.equal(tight.hits[[number]], alone.hits)
        torch.testing.assert_close(tight.near[[number]], alone.near)


def test_in_an_empty_scene_every_ray_misses() -> None:
    origins, directions = rays(500)
    whole = box_bounds(origins, directions, RADIUS, EXTENT)
    tight = empty().tightened(whole, origins, directions)
    assert whole.hits.sum() > 400
    assert (tight.hits == 0).all()
    assert tight.near.isfinite().all() and tight.far.isfinite().all()


def test_rays_that_missed_before_miss_still() -> None:
    origins, directions = rays(500)
    whole = box_bounds(origins, directions, RADIUS, EXTENT)
    nothing = Bounds(whole.near, whole.far, torch.zeros_like(whole.hits))
    assert (occupancy(*SOLIDS).tightened(nothing, origins, directions).hits == 0).all()


def nerf_of(samples: int, *solids: Solid) -> ViewNeRF:
    """Its field is that of the solids, whatever views it is given."""
    nerf = ViewNeRF(encoder_widths=(16, 16, 16), volume_depth=4, num_coarse=samples, num_fine=samples).eval()

    def field(_: object, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = torch.zeros(*points.shape[:-1], nerf.config.features)
        for solid in solids:
            features[within(solid, points)] = torch.tensor(solid.colour + (0.5,) * (nerf.config.features - 3))
        empty = torch.zeros(points.shape[:-1])
        return density(*solids)(points) if solids else empty, features

    nerf.field.forward = field
    return nerf


@torch.no_grad()
def test_pictures_of_hard_surfaces_are_the_same() -> None:
    cameras = stacked(ring_cameras(2, 32), 1)
    images, chosen = torch.rand(1, 1, 3, 32, 32), cameras.select([0])
    nerf = nerf_of(192, *SOLIDS)
    whole = nerf.render(nerf.encode(images, chosen), cameras)
    quick = nerf.render(nerf.encode(images, chosen, find_empty=True), cameras)
    assert ((whole.opacity > 0.5) == (quick.opacity > 0.5)).float().mean() > 0.995
    solid = (whole.opacity > 0.99) & (quick.opacity > 0.99)
    assert solid.sum() > 100
    assert (whole.depth - quick.depth)[solid].abs().max() < 0.01
    assert (whole.features - quick.features).abs().mean() < 0.002
    air = whole.opacity == 0
    assert (quick.opacity[air] < 0.5).float().mean() > 0.995
    # With few samples it is the quick one that sees the solids better.
    few = nerf_of(8, *SOLIDS)
    errors = [
        (few.render(few.encode(images, chosen, find), cameras).depth - whole.depth)[solid].abs().mean()
        for find in (False, True)
    ]
    assert errors[1] < 0.6 * errors[0]


@torch.no_grad()
def test_half_of_the_samples_are_spent_where_something_is() -> None:
    cameras = stacked(ring_cameras(2, 32), 1)
    nerf = nerf_of(16, *SOLIDS)
    inner, counts = nerf.field.forward, []
    nerf.field.forward = lambda scene, points: (counts.append(points[..., 0].numel()), inner(scene, points))[1]
    spent = []
    for find in (False, True):
        scene = nerf.encode(torch.rand(1, 1, 3, 32, 32), cameras.select([0]), find)
        counts.clear()
        nerf.render(scene, cameras)
        spent.append(sum(counts))
    assert 0 < spent[1] < 0.5 * spent[0], "half for each ray, and rays that meet nothing have none"


@torch.no_grad()
def test_an_empty_scene_is_the_background() -> None:
    cameras = stacked(ring_cameras(2, 32), 1)
    nerf = nerf_of(4)
    whole = nerf.render(nerf.encode(torch.rand(1, 1, 3, 32, 32), cameras.select([0])), cameras)
    quick = nerf.render(nerf.encode(torch.rand(1, 1, 3, 32, 32), cameras.select([0]), find_empty=True), cameras)
    assert (quick.opacity == 0).all()
    assert torch.equal(quick.features, whole.features)
    assert (quick.rgb == 1).all()
    assert quick.depth.isfinite().all() and (quick.depth > 0.5).all()
