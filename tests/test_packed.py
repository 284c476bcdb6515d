"""The packed form gives back, bit for bit, what it was made from, and is written whole or not at all."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny import write_srn
from tiny_data import toy_views, write_capture, write_opencars

from mvgenvs.data import pack as packing
from mvgenvs.data.packed import PackedScenes
from mvgenvs.data.sampling import TrainingSets
from mvgenvs.data.scenes import open_scenes
from mvgenvs.data.srn import SRNScenes
from mvgenvs.data.stored import CachedScenes
from mvgenvs.errors import UserError
from mvgenvs.views import ViewSet


def assert_same_views(a: ViewSet, b: ViewSet) -> None:
    assert torch.equal(a.images, b.images)
    assert torch.equal(a.cameras.c2w, b.cameras.c2w)
    assert torch.equal(a.cameras.K, b.cameras.K)
    assert a.cameras.hw == b.cameras.hw
    for x, y in ((a.mask, b.mask), (a.depth, b.depth)):
        assert (x is None) == (y is None)
        assert x is None or torch.equal(x, y)


def assert_same_scenes(a: CachedScenes, b: CachedScenes) -> None:
    for one, other in zip(a.objects, b.objects, strict=True):
        described = [(x.name, x.family, x.category, x.view_ids, dict(x.about)) for x in (one, other)]
        assert described[0] == described[1]
    for index in range(len(a)):
        assert_same_views(a.load(index), b.load(index))
        assert_same_views(a.load(index, [3, 0]), b.load(index, [3, 0]))


@pytest.fixture
def opencars(tmp_path: Path) -> Path:
    """The first of two training objects has depth and masks, the second neither."""
    root = write_opencars(tmp_path / "opencars", {"train": 2, "val": 1})
    for kind in ("depth", "mask"):
        shutil.rmtree(root / "cars_train/train-1" / kind)
    return root


@pytest.mark.parametrize("size", [32, 19])  # an odd size: nothing in the file is aligned by chance
def test_packed_views_equal_those_they_were_made_from(opencars, tmp_path, size):
    packing.main([str(opencars), "--size", str(size), "--output", str(tmp_path / "packed")])
    for split in ("train", "val"):
        packed, plain = (open_scenes(root, split, size) for root in (tmp_path / "packed", opencars))
        assert isinstance(packed, PackedScenes)
        assert isinstance(plain, SRNScenes)
        assert_same_scenes(packed, plain)
    assert sorted(path.name for path in (tmp_path / "packed").glob("[!.]*")) == ["train.safetensors", "val.safetensors"]
    assert open_scenes(tmp_path / "packed", "train", size).load(1).depth is None
    assert open_scenes(tmp_path / "packed", "train", size).load(0).depth is not None


def test_training_sets_are_the_same(opencars, tmp_path):
    packing.main([str(opencars), "--size", "32", "--output", str(tmp_path / "packed"), "--split", "train"])
    packed, plain = (
        TrainingSets(open_scenes(root, "train", 32), 3, (1, 2), 4, seed=0, num_items=100)
        for root in (tmp_path / "packed", opencars)
    )
    for index in range(8):
        assert_same_views(packed[index].views, plain[index].views)
        assert packed[index].seed == plain[index].seed


def test_captures_can_be_packed(tmp_path):
    write_capture(tmp_path / "captures/a", toy_views(1))
    packing.main([str(tmp_path / "captures"), "--size", "32", "--output", str(tmp_path / "p"), "--split", "train"])
    assert_same_scenes(open_scenes(tmp_path / "p", "train", 32), open_scenes(tmp_path / "captures", "train", 32))
    with pytest.raises(UserError, match="no split 'val', it has train"):
        open_scenes(tmp_path / "p", "val", 32)


def test_the_same_data_give_the_same_bytes(opencars, tmp_path):
    for name in ("a", "b"):
        packing.main([str(opencars), "--size", "16", "--output", str(tmp_path / name), "--split", "train"])
    one, two = ((tmp_path / name / "train.safetensors").read_bytes() for name in "ab")
    assert one == two
    assert len(one) > 2 * 5 * 16 * 16 * 4  # images and masks of two objects


def test_categories_are_kept_apart(tmp_path):
    root = write_srn(tmp_path / "srn", {"train": 2})
    (root / "chairs_train").mkdir()
    (root / "cars_train/train-1").rename(root / "chairs_train/train-1")
    packing.main([str(root), "--size", "32", "--output", str(tmp_path / "packed")])
    packed = tmp_path / "packed"
    assert_same_scenes(open_scenes(packed, "train", 32), open_scenes(root, "train", 32))
    assert [item.name for item in open_scenes(packed, "train", 32).objects] == ["train-0", "train-1"]
    chairs = open_scenes(packed, "train", 32, category="chairs")
    assert [(item.name, item.category) for item in chairs.objects] == [("train-1", "chairs")]
    assert_same_scenes(chairs, open_scenes(root, "train", 32, category="chairs"))
    with pytest.raises(UserError, match="choose one of cars, chairs"):
        open_scenes(packed, "train", 32, category="boats")


def test_a_failure_leaves_what_was_there(opencars, tmp_path):
    arguments = [str(opencars), "--size", "32", "--output", str(tmp_path / "packed"), "--split", "train"]
    packing.main(arguments)
    before = (tmp_path / "packed/train.safetensors").read_bytes()
    (opencars / "cars_train/train-1/rgb/000003.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"000003.png is damaged"):
        packing.main(arguments)
    assert {path.name for path in (tmp_path / "packed").iterdir()} == {"train.safetensors", ".mvgenvs"}
    assert (tmp_path / "packed/train.safetensors").read_bytes() == before


def test_a_full_disk_is_one_sentence(opencars, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packing, "copyfileobj", full)
    with pytest.raises(UserError, match="No space left on device"):
        packing.main([str(opencars), "--size", "32", "--output", str(tmp_path / "packed"), "--split", "train"])
    assert not (tmp_path / "packed").exists(), "it was made for the file"


def test_weights_of_others_are_not_packed_over(opencars, tmp_path):
    path = tmp_path / "train.safetensors"
    path.write_bytes(b"my weights")
    words = [str(opencars), "--size", "32", "--output", str(tmp_path), "--split", "train"]
    with pytest.raises(UserError, match=r"train\.safetensors was not written by this program"):
        packing.main(words)
    assert path.read_bytes() == b"my weights"
    path.unlink()
    packing.main(words)
    (tmp_path / ".mvgenvs").unlink()  # as an earlier version left it
    packing.main(words)


def test_other_sizes_and_damaged_files_are_user_errors(opencars, tmp_path):
    packed = tmp_path / "packed"
    packing.main([str(opencars), "--size", "32", "--output", str(packed), "--split", "train"])
    with pytest.raises(UserError, match="packed at 32 pixels, not 64"):
        open_scenes(packed, "train", 64)
    file = packed / "train.safetensors"
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:5], b"", b"\xff" * 400):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match="damaged"):
            open_scenes(packed, "train", 32)
    save_file({"weights": torch.zeros(3)}, file)
    with pytest.raises(UserError, match="not of the form"):
        open_scenes(packed, "train", 32)


def test_mistaken_arguments_are_user_errors(tmp_path):
    mistakes = {
        "there is no folder .*nowhere": [str(tmp_path / "nowhere")],
        "found no data set": [str(tmp_path)],
        "--size: '0' is not a whole number from 8 to 4096": [str(tmp_path), "--size", "0"],
    }
    for sentence, arguments in mistakes.items():
        with pytest.raises(UserError, match=sentence):
            packing.main([*arguments, "--output", str(tmp_path / "packed")])
