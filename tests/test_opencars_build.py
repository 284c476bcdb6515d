import errno
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from build_contents import contents
from debs import write_deb
from fake_source import PACKAGE, TOYS
from reprojection import agreement
from shapes import obj_text, toy_car

from mvgenvs.data.opencars import build as module
from mvgenvs.data.opencars.__main__ import main
from mvgenvs.data.opencars.build import Recipe, build
from mvgenvs.data.opencars.categories import CATEGORIES
from mvgenvs.data.srn import SRNScenes
from mvgenvs.errors import UserError
from mvgenvs.meshes.renderer import Renderer
from mvgenvs.trajectories import angles_of, srn_spiral

RECIPE = Recipe("toys", size=32, views=4, spiral=6)
OBJECTS = ("estate-red", "estate-blue", "buggy", "saloon")


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    """The builder knows of toys."""
    try:
        Renderer(8)
    except UserError as error:
        pytest.skip(str(error))
    monkeypatch.setitem(CATEGORIES, "toys", TOYS)


@pytest.fixture
def packages(tmp_path) -> Path:
    files = {f"usr/share/{name}.obj": obj_text(toy_car()).encode() for name in OBJECTS}
    write_deb(tmp_path / "debs" / f"{PACKAGE}_1.0-1_all.deb", files, "1.0-1")
    return tmp_path / "debs"


def test_a_build_is_a_data_set_with_depth_mattes_and_metadata(tmp_path, packages):
    out = tmp_path / "out"
    assert build(out, packages, RECIPE) == 4
    train = SRNScenes(out, "train", 32)
    assert [o.name for o in train.objects] == ["estate-blue", "estate-red"]
    assert {o.family for o in train.objects} == {"estate"}
    views = train.load(0)
    assert views.num_views == 4
    assert ((views.depth > 0) <= (views.mask > 0)).all()
    metadata = json.loads((out / "toys_test/saloon/metadata.json").read_text())
    assert metadata["source"] == {"package": PACKAGE, "version": "1.0-1", "file": "saloon.obj"}
    assert (metadata["split"], metadata["licence"], metadata["triangles"]) == ("test", "CC0", 36)
    test = SRNScenes(out, "test", 32).load(0)
    torch.testing.assert_close(test.cameras.c2w, srn_spiral(6).c2w, atol=1e-6, rtol=0)
    share, pixels = agreement(test.depth[:, 0], test.cameras)
    assert pixels > 100
    assert share > 0.9


def test_building_twice_gives_the_same_bytes_and_every_object_has_its_own_cameras(tmp_path, packages):
    for name in ("one", "two"):
        build(tmp_path / name, packages, RECIPE, only="estate*", jobs=2 if name == "two" else 1)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    poses = [SRNScenes(tmp_path / "one", "train", 32).load(i).cameras.c2w for i in (0, 1)]
    assert not torch.allclose(poses[0], poses[1])


def test_a_killed_build_goes_on_and_a_finished_one_does_nothing(tmp_path, packages, monkeypatch):
    whole, out = tmp_path / "whole", tmp_path / "out"
    build(whole, packages, RECIPE)
    build(out, packages, RECIPE, only="buggy")
    half = out / ".partial" / "saloon"  # what a kill in the middle of an object leaves
    half.mkdir(parents=True)
    (half / "intrinsics.txt").write_text("damaged")
    assert build(out, packages, RECIPE) == 3
    assert contents(out) == contents(whole)
    monkeypatch.setattr(module, "fetch", lambda *_: pytest.fail("a finished build needs no packages"))
    assert build(out, tmp_path / "nowhere", RECIPE) == 0


def test_another_recipe_is_refused(tmp_path, packages):
    build(tmp_path / "out", packages, RECIPE, only="buggy")
    before = contents(tmp_path / "out")
    with pytest.raises(UserError, match=r"built otherwise \(size, views differ\)"):
        build(tmp_path / "out", packages, Recipe("toys", size=64, views=5, spiral=6), only="buggy")
    assert contents(tmp_path / "out") == before


def test_size_and_focal_length_are_those_asked_for(tmp_path, packages):
    """A focal length of 1.2 times the size fills the image as a nearer camera would, and nothing is cut off."""
    wide, tight = (Recipe("toys", size=48, views=3, spiral=3, focal=focal) for focal in (0.0, 57.6))
    shares = []
    for name, recipe in (("wide", wide), ("tight", tight)):
        build(tmp_path / name, packages, recipe, only="saloon")
        words = (tmp_path / name / "toys_test/saloon/intrinsics.txt").read_text().split()
        assert float(words[0]) == pytest.approx(recipe.focal or 131.25 * 48 / 128)
        assert [float(word) for word in (*words[1:3], *words[-2:])] == [24, 24, 48, 48]
        views = SRNScenes(tmp_path / name, "test", 48).load(0)
        assert views.images.shape[-2:] == (48, 48)
        assert agreement(views.depth[:, 0], views.cameras)[0] > 0.9
        edge = torch.cat([views.mask[..., 0, :], views.mask[..., -1, :], views.mask[..., 0], views.mask[..., -1]])
        assert edge.max() == 0
        shares.append(views.mask.mean().item())
    assert shares[1] / shares[0] == pytest.approx((1.2 / (131.25 / 128)) ** 2, rel=0.05)


def test_another_focal_length_is_another_recipe_and_none_is_srns(tmp_path, packages):
    build(tmp_path / "out", packages, RECIPE, only="buggy")
    index = tmp_path / "out/toys.json"
    content = json.loads(index.read_text())
    del content["recipe"]["focal"]  # as earlier versions wrote it
    index.write_text(json.dumps(content))
    assert build(tmp_path / "out", packages, RECIPE, only="buggy") == 0
    with pytest.raises(UserError, match=r"built otherwise \(focal differ\)"):
        build(tmp_path / "out", packages, Recipe("toys", size=32, views=4, spiral=6, focal=30.0), only="buggy")
    del content["recipe"]["surface"]  # whose depth maps saw through windows
    index.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"built otherwise \(surface differ\)"):
        build(tmp_path / "out", packages, RECIPE, only="buggy")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--size", "4"), "'4' is not a whole number from 8 to 2048"),
        (("--size", "20000"), "from 8 to 2048"),
        (("--size", "1e3"), "whole number"),
        (("--focal", "200"), r"--focal 200 is not from 51\.2 to 153\.6"),
        (("--focal", "nan"), "'nan' is not a number from"),
        (("--focal", "-131"), "'-131' is not a number from"),
        (("--size", "64", "--focal", "131.25"), r"from 25\.6 to 76\.8"),
        (("--focal", "wide"), "'wide' is not a number from"),
    ],
)
def test_sizes_and_focal_lengths_out_of_range_are_one_sentence(tmp_path, words, message):
    with pytest.raises(UserError, match=message):
        main(["--output", str(tmp_path / "out"), *words])
    assert not (tmp_path / "out").exists()


def test_a_damaged_object_is_named_and_the_others_are_finished(tmp_path):
    files = {f"usr/share/{name}.obj": obj_text(toy_car()).encode() for name in OBJECTS}
    files["usr/share/estate-blue.obj"] = b"v 1 2\nf 1 2 3\n"
    write_deb(tmp_path / "debs" / f"{PACKAGE}_1.0-1_all.deb", files)
    with pytest.raises(UserError, match=r"1 of 4 objects could not be read: estate-blue \(.*estate-blue\.obj"):
        build(tmp_path / "out", tmp_path / "debs", RECIPE)
    assert sorted(p.parent.name for p in (tmp_path / "out").rglob("metadata.json")) == ["buggy", "estate-red", "saloon"]


def test_a_full_disk_stops_in_one_sentence_and_leaves_finished_objects(tmp_path, packages, monkeypatch):
    out = tmp_path / "out"
    build(out, packages, RECIPE, only="buggy")
    before = contents(out / "toys_val")
    tasks = module.list_tasks(RECIPE, {PACKAGE: packages / "unpacked/toys" / PACKAGE}, {PACKAGE: "1"})
    write, calls = Path.write_bytes, []

    def full(path: Path, data: bytes) -> int:
        calls.append(path)
        if len(calls) > 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with Renderer(32) as renderer, pytest.raises(UserError, match=r"saloon .*No space left on device.*free space"):
        module.render_task(next(t for t in tasks if t.name == "saloon"), RECIPE, out, renderer)
    assert not (out / "toys_test").exists()
    assert not list(out.rglob("*saloon*"))
    assert contents(out / "toys_val") == before


def test_variants_are_of_train_objects_and_look_otherwise(tmp_path, packages):
    recipe = Recipe("toys", size=32, views=4, spiral=6, repaint=2)
    build(tmp_path / "out", packages, RECIPE)
    assert build(tmp_path / "out", packages, recipe) == 4  # adds to what is there
    train = SRNScenes(tmp_path / "out", "train", 32)
    assert len(train) == 6
    assert len(SRNScenes(tmp_path / "out", "test", 32)) == 1
    assert {o.family for o in train.objects} == {"estate"}
    red = []
    for views in map(train.load, range(6)):
        red.append(views.images[:, 0][views.mask[:, 0] > 0.99].mean().item())
    assert np.ptp(red) > 0.05


def test_random_views_cover_the_upper_half_or_the_whole_sphere():
    upper = module.random_views(400, np.random.default_rng(0))
    full = module.random_views(400, np.random.default_rng(0), upper=False)
    for cameras, low in ((upper, 0.0), (full, -1.0)):
        height = cameras.centers[:, 1] / 1.3
        assert height.min() >= low - 1e-6
        shares = torch.histc(height, 4, low, 1.0) / 400  # uniform in height is uniform over the sphere
        assert (shares - 0.25).abs().max() < 0.07
        azimuth = angles_of(cameras.centers)[0]
        assert (torch.histc(azimuth, 4, -180, 180) / 400 - 0.25).abs().max() < 0.07


def test_nothing_matches(tmp_path, packages):
    with pytest.raises(UserError, match="no toys have an id that matches 'plane'"):
        build(tmp_path / "out", packages, RECIPE, only="plane")
