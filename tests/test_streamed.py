"""Shards give back what they were made from, and processes that stream them never see the same set or shard."""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from collections import Counter
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_data import write_opencars

from mvgenvs.config import TrainConfig
from mvgenvs.data import shards as sharding
from mvgenvs.data import streamed
from mvgenvs.data.mixture import open_mixture
from mvgenvs.data.sampling import TrainingSets
from mvgenvs.data.scenes import open_scenes
from mvgenvs.data.streamed import KEPT, ShardScenes
from mvgenvs.data.streamed_sets import DRAWS, StreamedSets
from mvgenvs.errors import UserError
from mvgenvs.parts import checkpoints
from mvgenvs.training.trainer import train

OBJECTS, SHARDS, SIZE, SEED = 12, 4, 16, TrainConfig().run.seed
PROCESS = """
import json, sys
from accelerate import PartialState
from mvgenvs.config import TrainConfig
from mvgenvs.processes import join_processes
from mvgenvs.training.loop import batches
from mvgenvs.training.trainer import open_data
from dataclasses import replace

state = join_processes("cpu")
assert state.num_processes == int(sys.argv[3]), "they never met"
config = TrainConfig()
config = replace(config, data=replace(config.data, root=sys.argv[1], size=16, num_views=2, max_known=1),
                 optim=replace(config.optim, batch=4, accumulation=1))
scenes, sets = open_data(config, state.num_processes)
read = []
inner = scenes._read_shard
scenes._read_shard = lambda shard: (read.append(shard), inner(shard))[1]
stream, seen = batches(sets, config, state, 0), []
for _ in range(15):
    batch = next(stream)
    seen += zip(batch.seeds, batch.views.images.sum((1, 2, 3, 4)).tolist())
with open(f"{sys.argv[2]}.{state.process_index}", "w") as file:
    json.dump({"seen": seen, "read": read}, file)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve objects, one of them without a front, one without depth."""
    root = write_opencars(tmp_path_factory.mktemp("data") / "toys", {"train": OBJECTS, "val": 2}, size=SIZE)
    path = root / "cars_train/train-3/metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"front": False}))
    for file in (root / "cars_train/train-5/depth").iterdir():
        file.unlink()
    (root / "cars_train/train-5/depth").rmdir()
    return root


@pytest.fixture
def root(data: Path, tmp_path: Path) -> Path:
    write(data, tmp_path / "shards", "train")
    return tmp_path / "shards"


def write(data: Path, output: Path, *splits: str, shards: int = SHARDS) -> None:
    words = [str(data), "--size", str(SIZE), "--shards", str(shards), "--output", str(output)]
    sharding.main([*words, "--split", *splits])


def sets_of(root: Path, world: int = 1, share: int = 2, num_items: int = 10**6) -> StreamedSets:
    scenes = open_scenes(root, "train", SIZE)
    return StreamedSets(scenes, 2, (1, 1), world * share, SEED, num_items, world=world, share=share)


def test_streamed_views_equal_those_they_were_made_from(data: Path, root: Path) -> None:
    streamed_scenes, plain = open_scenes(root, "train", SIZE), open_scenes(data, "train", SIZE)
    assert isinstance(streamed_scenes, ShardScenes)
    assert len(streamed_scenes) == len(plain) == OBJECTS
    places = {item.name: index for index, item in enumerate(plain.objects)}
    for index, item in enumerate(streamed_scenes.objects):
        twin = plain.objects[places[item.name]]
        assert (item.family, item.category, item.view_ids, dict(item.about)) == (
            twin.family, twin.category, twin.view_ids, dict(twin.about),
        )  # fmt: skip
        ours, theirs = streamed_scenes.load(index, [3, 0]), plain.load(places[item.name], [3, 0])
        for name in ("images", "mask", "depth"):
            a, b = getattr(ours, name), getattr(theirs, name)
            assert (a is None) == (b is None) and (a is None or torch.equal(a, b))
        assert torch.equal(ours.cameras.c2w, theirs.cameras.c2w) and torch.equal(ours.cameras.K, theirs.cameras.K)
    assert sum(not item.has_front for item in streamed_scenes.objects) == 1


def test_the_same_data_give_the_same_bytes(data: Path, root: Path, tmp_path: Path) -> None:
    write(data, tmp_path / "again", "train")
    files = sorted(path.name for path in root.glob("train*"))
    assert files == [*sharding.shard_names("train", SHARDS), "train.shards.json"]
    for name in files:
        assert (tmp_path / "again" / name).read_bytes() == (root / name).read_bytes()


def test_two_processes_see_each_set_once_and_no_shard_of_the_other(root: Path, tmp_path: Path) -> None:
    script = tmp_path / "process.py"
    script.write_text(PROCESS)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    launcher = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    command = [sys.executable, "-m", *launcher, str(script), str(root), str(tmp_path / "seen"), "2"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (json.loads((tmp_path / f"seen.{rank}").read_text()) for rank in (0, 1))
    assert not set(first["read"]) & set(second["read"])
    assert set(first["read"]) | set(second["read"]) == set(range(SHARDS))
    sets = sets_of(root, world=2, share=2)  # what one process would have drawn with these indices
    for rank, process in enumerate((first, second)):
        indices = [step * 4 + rank * 2 + place for step in range(15) for place in range(2)]
        samples = [sets[index] for index in indices]
        assert [seed for seed, _ in process["seen"]] == [sample.seed for sample in samples]
        sums = torch.tensor([total for _, total in process["seen"]])
        torch.testing.assert_close(sums, torch.stack([s.views.images.sum() for s in samples]), rtol=1e-4, atol=0)
    seeds = [seed for process in (first, second) for seed, _ in process["seen"]]
    assert len(set(seeds)) == 60


def test_windows_move_over_all_shards_of_their_process_and_over_no_others(data: Path, tmp_path: Path) -> None:
    write(data, tmp_path / "many", "train", shards=OBJECTS)
    world, share = 2, 1
    sets = sets_of(tmp_path / "many", world, share)
    of_rank = [[sets.window(index) for index in range(rank, 400, 2)] for rank in range(world)]
    seen = [{shard for window in windows for shard in window} for windows in of_rank]
    assert [len(shards) for shards in seen] == [OBJECTS // 2] * 2 and not seen[0] & seen[1]
    for windows in of_rank:
        assert {len(window) for window in windows} == {KEPT}
        moves = [index for index in range(1, len(windows)) if windows[index] != windows[index - 1]]
        assert set(torch.tensor(moves).diff().tolist()) == {DRAWS}  # shards of one object
        for index in moves:
            assert len(set(windows[index]) - set(windows[index - 1])) == 1
    for index in range(100):
        assert sets.scenes.shard_of[sets.draw(index).scene] in sets.window(index)


def test_memory_holds_a_few_shards_and_each_is_read_once_a_pass(data: Path, tmp_path: Path) -> None:
    write(data, tmp_path / "many", "train", shards=OBJECTS)
    sets = sets_of(tmp_path / "many", 1, 1)
    read: list[int] = []
    inner = sets.scenes._read_shard
    sets.scenes._read_shard = lambda shard: (read.append(shard), inner(shard))[1]
    for index in range(DRAWS * OBJECTS):  # one pass
        sets[index]
        assert len(sets.scenes._kept) <= KEPT
    # Once each, but for those of the first window, which the last windows take up again.
    assert max(Counter(read).values()) <= 2 and len(read) <= OBJECTS + KEPT
    assert set(read) == set(range(OBJECTS))


def test_all_families_of_a_window_are_drawn_alike(root: Path) -> None:
    sets = sets_of(root)
    plain = TrainingSets(sets.scenes, 2, (1, 1), 2, SEED, 10**6)
    draws = Counter(sets.draw(index).scene for index in range(DRAWS * OBJECTS // SHARDS))  # one window: all of them
    assert set(draws) <= set(range(OBJECTS)) and len(sets.window(0)) == SHARDS
    for index in range(20):  # which here is what a data set that lies in memory gives
        assert sets.draw(index).views == plain.draw(index).views
        assert sets.draw(index).seed == plain.draw(index).seed


class Flaky(SimpleHTTPRequestHandler):
    """Serves a folder; the first answers are failures."""

    failures = 1

    def do_GET(self) -> None:
        if type(self).failures:
            type(self).failures -= 1
            self.send_error(503)
        else:
            super().do_GET()

    def log_message(self, *_: object) -> None:
        """Silent."""


def test_shards_may_lie_elsewhere(data: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "PAUSE", 0.0)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Flaky, directory=str(root))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        words = [str(data), "--size", str(SIZE), "--shards", "4", "--output", str(tmp_path / "index"), "--url", url]
        sharding.main([*words, "--split", "train"])
        for path in (tmp_path / "index").glob("*.tar"):
            path.unlink()
        there, here = open_scenes(tmp_path / "index", "train", SIZE), open_scenes(root, "train", SIZE)
        assert torch.equal(there.load(0).images, here.load(0).images)
        (root / "train-000002.tar").unlink()
        with pytest.raises(UserError, match=r"cannot read the shard http://127.*000002\.tar"):
            there.load(there.shard_of.index(2))
        server.shutdown()


@pytest.mark.parametrize(
    "url",
    ["pipe:touch ran; cat ", "file:///etc/", "ftp://host/x", "http://host/'; touch ran; '", "http://h/{a,b}", "/x"],
)
def test_an_index_of_others_runs_nothing_and_reads_nothing_else(url: str, root: Path, tmp_path: Path) -> None:
    path = root / "train.shards.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"url": url}))
    with pytest.raises(UserError, match="give an address of http or https"):
        open_scenes(root, "train", SIZE)
    with pytest.raises(UserError, match="no address of http"):
        sharding.main([str(root), "--output", str(tmp_path / "out"), "--url", url])
    assert not Path("ran").exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name", ["../train-000000.tar", "/etc/passwd", "pipe:touch ran", "..", "a\\b", "a b", "", "x::y"]
)
def test_shards_of_an_index_lie_beside_it(name: str, root: Path) -> None:
    path = root / "train.shards.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"shards": [name, *content["shards"][1:]]}))
    with pytest.raises(UserError, match="do not lie beside it"):
        open_scenes(root, "train", SIZE)


def test_folders_may_have_any_name(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("pipe:touch ran; #", "{a,b} é", "x::y"):
        write(data, Path(name), "train")
        assert open_scenes(Path(name), "train", SIZE).load(0).num_views == 5
    assert not Path("ran").exists()


@pytest.mark.parametrize("kind", ["pickled", "wide", "text", "claims", "archive", "header"])
def test_arrays_of_others_are_what_they_must_be(kind: str, root: Path) -> None:
    scenes = open_scenes(root, "train", SIZE)
    member = f"{next(e['number'] for e in scenes._entries if e['shard'] == 0):09d}.images.npy"
    buffer = io.BytesIO()
    if kind == "archive":
        np.savez(buffer, np.zeros(3))
    else:
        odd = {"pickled": np.array([{}], object), "wide": np.zeros((5, 3, 16, 17), np.uint8), "text": np.array(["x"])}
        np.save(buffer, odd.get(kind, np.zeros((5, 3, 16, 16), np.uint8)), allow_pickle=True)
    content = buffer.getvalue()
    if kind == "claims":  # a small file that stands for a large array
        content = content.replace(b"(5, 3, 16, 16), }    ", b"(90000, 3, 16, 16), }")
        assert b"90000" in content
    if kind == "header":  # of which numpy raises SyntaxError or tokenize's error
        content = content[:10] + content[10:70].replace(b"'descr'", b"{{r\r00\0") + content[70:]
    with tarfile.open(root / "train-000000.tar", "w") as tar:
        info = tarfile.TarInfo(member)
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    with pytest.raises(UserError, match="cannot read the shard"):
        scenes.load(scenes.shard_of.index(0))


def test_fewer_shards_than_processes_and_mixtures_are_refused(data: Path, root: Path) -> None:
    with pytest.raises(UserError, match="4 shards cannot be shared by 5 processes"):
        sets_of(root, world=5)
    with pytest.raises(UserError, match="shards are streamed alone"):
        open_mixture({str(root): 1.0, str(data): 1.0}, "train", SIZE)


@pytest.mark.parametrize("damage", ["cut", "missing", "noise", "another"])
def test_a_damaged_shard_is_one_sentence(root: Path, damage: str) -> None:
    scenes = open_scenes(root, "train", SIZE)
    path = root / "train-000002.tar"
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "another":
        path.write_bytes((root / "train-000001.tar").read_bytes())
    else:
        path.write_bytes(whole[: len(whole) // 3] if damage == "cut" else b"\x07" * 3000)
    with pytest.raises(UserError, match=r"the shard .*train-000002\.tar"):
        scenes.load(scenes.shard_of.index(2))
    scenes.load(scenes.shard_of.index(0))  # the others are none the worse


@pytest.mark.parametrize("key", [*streamed.FIELDS, "format", "size", "url", "shards", "objects"])
def test_an_index_that_lacks_a_field_is_one_sentence(root: Path, key: str) -> None:
    path = root / "train.shards.json"
    content = json.loads(path.read_text())
    del (content["objects"][3] if key in streamed.FIELDS else content)[key]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"train\.shards\.json is damaged: write the shards again"):
        open_scenes(root, "train", SIZE)


def test_other_sizes_and_categories_are_told(root: Path) -> None:
    with pytest.raises(UserError, match="images of 16 pixels, not 64"):
        open_scenes(root, "train", 64)
    with pytest.raises(UserError, match="choose one of cars"):
        open_scenes(root, "train", SIZE, category="boats")
    with pytest.raises(UserError, match="no split 'val', it has train"):
        open_scenes(root, "val", SIZE)


def test_a_full_disk_leaves_no_index_of_shards_that_are_not_there(
    data: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sharding.tarfile.TarFile, "addfile", full)
    with pytest.raises(UserError, match="No space left on device"):
        write(data, root, "train")
    assert not (root / "train.shards.json").exists()
    assert not [path for path in root.iterdir() if path.name.startswith(".train")]
    with pytest.raises(UserError, match="found no data set"):
        open_scenes(root, "train", SIZE)


def test_more_shards_than_objects_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has 12 train objects: give at most as many --shards"):
        write(data, tmp_path / "out", "train", shards=13)


def test_a_stage_trains_on_shards_to_the_same_weights_resumed_or_not(data: Path, tmp_path: Path) -> None:
    """Four steps at once, and two and two."""
    from test_training import assert_equal, tiny, weights

    write(data, tmp_path / "shards", "train")
    options = {"data__root": str(tmp_path / "shards"), "data__size": str(SIZE), "denoiser__render_size": "4"}
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert train(tiny(whole, **options), resume=False) == 0
    shutil.copytree(whole, halves)
    for path in (halves / "checkpoint-000004", halves / ".mvgenvs"):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    assert checkpoints(halves) and train(tiny(halves, **options), resume=True) == 0
    assert_equal(weights(halves), weights(whole))
