"""The compact form: masks and cameras exact, depth to a step, colours nearly, and no damage that goes unnoticed."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import SIZE, write_srn
from tiny_data import write_opencars

from mvgenvs.data.compact import CompactScenes, main
from mvgenvs.data.scenes import open_scenes
from mvgenvs.errors import UserError
from mvgenvs.views import ViewSet


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cars and one chair; the mask of a car's view has every value in it, another covers its whole image."""
    root = write_opencars(tmp_path_factory.mktemp("data") / "toys", {"train": 3})
    (root / "chairs_train").mkdir()
    (root / "cars_train" / "train-2").rename(root / "chairs_train" / "train-2")
    partial = np.arange(SIZE * SIZE, dtype=np.uint32).reshape(SIZE, SIZE) % 256
    cv2.imwrite(str(root / "cars_train/train-0/mask/000001.png"), partial.astype(np.uint8))
    cv2.imwrite(str(root / "cars_train/train-0/mask/000002.png"), np.full((SIZE, SIZE), 255, np.uint8))
    return root


@pytest.fixture(scope="module")
def file(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compact")
    main(["pack", str(root), "--output", str(folder), "--size", str(SIZE), "--views", "4"])
    return folder / "toys.safetensors"


def damaged(file: Path, folder: Path, **tensors: torch.Tensor) -> Path:
    """A copy of the file with some tensors replaced."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        header = opened.metadata()
    path = folder / "damaged.safetensors"
    save_file(load_file(file) | tensors, path, header)
    return path


def test_what_was_packed_comes_back(root: Path, file: Path) -> None:
    theirs, ours = open_scenes(root, "train", SIZE), CompactScenes(file)
    assert [(o.name, o.family, o.category, dict(o.about)) for o in ours.objects] == [
        (o.name, o.family, o.category, dict(o.about)) for o in theirs.objects
    ]
    for index, item in enumerate(theirs.objects):
        whole, found = theirs.read(index), ours.read(index)
        assert ours.objects[index].view_ids == item.view_ids[:4] and len(item.view_ids) == 5
        assert torch.equal(found.mask, whole.mask[:4])
        assert torch.equal(found.cameras.c2w, whole.cameras.c2w[:4])
        assert torch.equal(found.cameras.K, whole.cameras.K[:4])
        assert (found.images[(found.mask == 0).expand_as(found.images)] == 255).all()
        opaque = (found.mask == 255).expand_as(found.images)
        error, swapped = (
            (found.images.int() - images[:4].int()).abs()[opaque].float().mean()
            for images in (whole.images, whole.images.flip(1))
        )
        assert error < 12 and error < swapped / 2  # so small, and sharp, are these pictures
        for view in range(4):
            true, depth = whole.depth[view].int(), found.depth[view].int()
            assert torch.equal(depth > 0, true > 0)
            seen = true[true > 0]
            step = max(1, -(-int(seen.max() - seen.min()) // 254))
            assert (depth - true).abs().max() <= max(1, step / 2)
        assert found.depth_unit == whole.depth_unit


def test_packing_is_small(root: Path, file: Path) -> None:
    raw = open_scenes(root, "train", SIZE).read(0)
    size = sum(x[0].numel() * x.element_size() for x in (raw.images, raw.mask, raw.depth))
    assert file.stat().st_size < 0.6 * size * 12  # 12 views; less is left at real sizes


def test_a_category_alone(root: Path, tmp_path: Path) -> None:
    main(["pack", str(root), "--output", str(tmp_path), "--size", str(SIZE), "--category", "chairs"])
    assert [item.category for item in CompactScenes(tmp_path / "toys.safetensors").objects] == ["chairs"]
    with pytest.raises(UserError, match="boats"):
        main(["pack", str(root), "--output", str(tmp_path), "--size", str(SIZE), "--category", "boats"])


def test_expanded_it_is_a_data_set(file: Path, tmp_path: Path) -> None:
    main(["expand", str(file), "--output", str(tmp_path), "--split", "val"])
    packed, compact = open_scenes(tmp_path, "val", SIZE), CompactScenes(file)
    assert [item.name for item in packed.objects] == [item.name for item in compact.objects]
    for index in range(len(packed)):
        ours, theirs = packed.load(index), compact.load(index)
        assert isinstance(ours, ViewSet)
        for name in ("images", "mask", "depth"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name))
        assert torch.equal(ours.cameras.c2w, theirs.cameras.c2w)


def test_data_without_masks_or_depths_are_refused(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    for folder in copy.glob("*_train/*"):
        shutil.rmtree(folder / "depth")
    for data in (copy, write_srn(tmp_path / "srn", {"train": 1})):
        with pytest.raises(UserError, match="masks or depths"):
            main(["pack", str(data), "--output", str(tmp_path / "out"), "--size", str(SIZE)])
    assert not (tmp_path / "out").exists()


def test_damage_is_one_sentence(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    for content in (b"", b"no file of ours", file.read_bytes()[:-200]):
        path.write_bytes(content)
        with pytest.raises(UserError, match="damaged"):
            CompactScenes(path)
    with pytest.raises(UserError, match="missing"):
        CompactScenes(tmp_path / "none.safetensors")
    save_file(load_file(file), path, {"mvgenvs": json.dumps({"format": "mvgenvs compact 0"})})
    with pytest.raises(UserError, match="not of the form"):
        CompactScenes(path)
    tensors = load_file(file)
    del tensors["ranges"]
    save_file(tensors, path, {"mvgenvs": "{}"})
    with pytest.raises(UserError, match="damaged or missing"):
        CompactScenes(path)


def test_pictures_that_do_not_decode_are_one_sentence(file: Path, tmp_path: Path) -> None:
    zeros = torch.zeros_like(load_file(file)["bytes"])
    with pytest.raises(UserError, match="damaged"):
        CompactScenes(damaged(file, tmp_path, bytes=zeros)).read(0)
