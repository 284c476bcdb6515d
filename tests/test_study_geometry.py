"""The study of the NeRF's geometry: true depth reaches the ceiling, fog and shifts do not."""

import json
from pathlib import Path

import pytest
import torch
from tiny import SIZE, ray_cast, ring_cameras, tiny_pipeline, toy_car
from tiny_data import write_opencars

from eval.studies import geometry
from mvgenvs.data.srn import SRNScenes
from mvgenvs.media import read_png
from mvgenvs.views import UNKNOWN, ViewSet


def orbit_views() -> ViewSet:
    return ray_cast(toy_car(1), ring_cameras(24, 64, elevation=0.3))


def test_the_truth_is_its_own_ceiling() -> None:
    truth = orbit_views()
    figures = geometry.compare(geometry.RenderedTargets(truth.images, truth.depth, truth.mask), truth)
    assert torch.equal(figures["warp"].nan_to_num(), figures["ceiling"].nan_to_num())
    assert figures["depth-error"].abs().max() == 0
    assert (figures["iou"] == 1).all()
    assert figures["ceiling"].nanmean() > 15


def test_wrong_depth_costs_what_it_must() -> None:
    truth = orbit_views()
    farther = torch.where(truth.depth > 0, truth.depth + 0.1, truth.depth)
    figures = geometry.compare(geometry.RenderedTargets(truth.images, farther, truth.mask), truth)
    torch.testing.assert_close(figures["depth-error"], torch.full_like(figures["depth-error"], 0.1), atol=1e-5, rtol=0)
    assert figures["warp"].nanmean() < figures["ceiling"].nanmean() - 3
    nothing = geometry.compare(
        geometry.RenderedTargets(torch.ones_like(truth.images), farther, torch.zeros_like(truth.mask)), truth
    )
    assert (nothing["iou"] == 0).all()


def test_a_correspondence_is_where_the_true_depth_finds_it_give_or_take_a_token() -> None:
    """A depth that is wrong by a known number of pixels in the neighbour, on either side of a token."""
    truth = orbit_views()
    places = list(range(len(truth.images)))
    neighbours = [(place + geometry.NEIGHBOUR) % len(places) for place in places]
    assert geometry.displacement(truth.depth, truth, places, neighbours).max() == 0
    solid = truth.mask > 0
    for share, off in ((1.0, 0.002), (0.0, 0.6)):
        depth = torch.where(solid, truth.depth + off, truth.depth)
        moved = geometry.displacement(depth, truth, places, neighbours)[solid]
        assert (moved.max() < geometry.TOKEN) == (share == 1.0)
        match = geometry.compare(geometry.RenderedTargets(truth.images, depth, truth.mask), truth)["match"]
        assert match.nanmean() == pytest.approx(share, abs=0.05)
    unseen = geometry.RenderedTargets(truth.images, truth.depth, torch.zeros_like(truth.mask))
    assert geometry.compare(unseen, truth)["match"].nan_to_num().max() == 0, "what is not rendered finds nothing"


def test_figures_are_sorted_by_angle() -> None:
    angles = torch.tensor([10.0, 100.0, 170.0, 179.0])
    figures = {column.key: torch.tensor([1.0, 2.0, torch.nan, 5.0]) for column in geometry.COLUMNS}
    table = geometry.make_table([geometry.ObjectFigures(figures, angles)])
    assert [row["psnr"] for row in table.values()] == pytest.approx([8 / 3, 1.0, 2.0, 5.0])


def test_objects_are_chosen_from_the_whole_list(tmp_path: Path) -> None:
    """Of the training objects too, which one family after the other begins: the first few are all alike."""
    write_opencars(tmp_path, {"train": 6}, views=24)
    output = tmp_path / "out"
    output.mkdir()
    geometry.study(output, tiny_pipeline(), SRNScenes(tmp_path, "train", SIZE), 3)
    assert json.loads((output / "geometry.json").read_text())["objects"] == ["train-0", "train-2", "train-4"]
    assert read_png(output / "geometry.png").std() > 10


@pytest.mark.parametrize("mattes", [True, False])
def test_the_known_views_come_with_their_mattes_or_without(
    mattes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_opencars(tmp_path, {"train": 1}, views=24)
    pipeline, lifted = tiny_pipeline(), []
    encode = pipeline.nerf.encode
    monkeypatch.setattr(
        pipeline.nerf,
        "encode",
        lambda images, *rest, **options: lifted.append(images) or encode(images, *rest, **options),
    )
    scenes = SRNScenes(tmp_path, "train", SIZE)
    geometry.study(tmp_path, pipeline, scenes, 1, mattes=mattes)
    [images] = lifted
    assert ((images[:, :, 3] == UNKNOWN).all().item()) is not mattes
