"""Objects that the builder has rendered: a few of OpenCars, as anyone gets them."""

from pathlib import Path

import pytest
from reprojection import agreement

from mvgenvs.data.srn import SRNScenes

SAMPLE = Path(__file__).parent / "data/opencars_sample"


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_depth_mattes_and_cameras_of_real_objects_agree(split):
    scenes = SRNScenes(SAMPLE, split, 128)
    for index, item in enumerate(scenes.objects):
        views = scenes.load(index)
        share, pixels = agreement(views.depth[:, 0], views.cameras)
        assert pixels > 500, item.name
        assert share > 0.9, item.name
        assert ((views.depth > 0) <= (views.mask > 0)).all()
        outside = (views.mask == 0).expand_as(views.images)
        assert (views.images[outside] == 1).all()
        assert views.images[~outside].min() < 0.3


def test_shifted_depth_does_not_agree():
    views = SRNScenes(SAMPLE, "val", 128).load(0)
    assert agreement(0.96 * views.depth[:, 0], views.cameras)[0] < 0.5


def test_every_object_says_who_made_it_and_on_which_terms():
    for split in ("train", "val", "test"):
        for item in SRNScenes(SAMPLE, split, 128).objects:
            about = item.about
            assert (about["id"], about["split"], about["category"]) == (item.name, split, "cars")
            assert about["licence"] and about["attribution"]
            assert set(about["source"]) == {"package", "version", "file"}
            assert about["triangles"] > 1000
