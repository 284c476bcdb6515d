"""A results folder holds one complete run, whatever happened before or meanwhile."""

import json
from types import SimpleNamespace

import av
import pytest
import torch

from mvgenvs.errors import UserError
from mvgenvs.media import read_png, to_uint8
from mvgenvs.results import ResultsFolder, StepReporter
from mvgenvs.trajectories import orbit
from mvgenvs.transforms import read_transforms


def fill(results, views, generator):
    results.begin()
    images = torch.rand(len(views), 3, 32, 32, generator=generator)
    for image, index in zip(images, views, strict=True):
        results.add(index, image, image, torch.ones(1, 32, 32))
    return images


def finish(results, num_views):
    results.summarize(torch.rand(1, 3, 32, 32), orbit(num_views, hw=(32, 32)))
    results.publish({"settings": {"seed": 3}})


def test_complete_run(tmp_path, generator):
    results = ResultsFolder(tmp_path / "out", 5)
    images = fill(results, [4, 0, 2, 1, 3], generator)
    finish(results, 5)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"frames", "orbit.mp4", "contact_sheet.png", "cameras.json", "run.json"}
    assert (read_png(tmp_path / "out/frames/004.png") == to_uint8(images[0])).all()
    file_paths, cameras = read_transforms(tmp_path / "out/cameras.json")
    assert [(tmp_path / "out" / name).exists() for name in file_paths] == [True] * 5
    assert cameras.num_views == 5
    assert json.loads((tmp_path / "out/run.json").read_text())["settings"]["seed"] == 3
    with av.open(str(tmp_path / "out/orbit.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 5


def test_a_frame_made_again_replaces_the_earlier_one(tmp_path, generator):
    results = ResultsFolder(tmp_path, 3)
    images = fill(results, [0, 1, 2, 0], generator)
    finish(results, 3)
    assert (read_png(tmp_path / "frames/000.png") == to_uint8(images[3])).all()
    assert (read_png(tmp_path / "frames/001.png") == to_uint8(images[1])).all()
    assert torch.equal(results._thumbnails[0][0], images[3])


def test_a_shorter_run_leaves_no_stale_frames_and_other_files_alone(tmp_path, generator):
    for num_views in (5, 2):
        results = ResultsFolder(tmp_path, num_views)
        fill(results, range(num_views), generator)
        finish(results, num_views)
        (tmp_path / "mine.txt").touch()
    assert sorted(path.name for path in (tmp_path / "frames").iterdir()) == ["000.png", "001.png"]
    assert (tmp_path / "mine.txt").exists()


def test_an_unfinished_run_keeps_the_earlier_results_and_its_own_frames(tmp_path, generator):
    results = ResultsFolder(tmp_path, 3)
    fill(results, range(3), generator)
    finish(results, 3)
    fill(ResultsFolder(tmp_path, 8), range(6), generator)
    assert len(list((tmp_path / "frames").iterdir())) == 3
    assert len(list((tmp_path / "partial/frames").iterdir())) == 6


def test_long_runs_keep_few_pictures_in_memory(tmp_path, generator):
    results = ResultsFolder(tmp_path, 1200)
    assert results.names[-1] == "frames/1199.png"
    fill(results, range(900, 1200), generator)
    assert len(results._thumbnails) == 12
    kept = {
        x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for v in results._thumbnails.values() for x in v
    }
    assert sum(kept.values()) == 12 * 3 * (3 * 32 * 32 * 4), "three pictures each, and not the blocks they came in"


def test_unwritable_output_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        ResultsFolder(tmp_path / "file", 3)


@pytest.mark.parametrize("sizes", [(3, 2), (1, 3)])
def test_progress_shows_all_views_of_blocks_of_different_size(tmp_path, generator, sizes):
    with StepReporter(tmp_path, views=3) as report:
        for block, views in enumerate(sizes):
            for step in range(4):
                images = torch.rand(1, views, 3, 32, 32, generator=generator)
                state = SimpleNamespace(block=block, num_blocks=2, step=step, num_steps=4, sigma=1.0)
                state.denoised = lambda images=images: images
                report(state)
    assert (tmp_path / "progress.png").exists()
    with av.open(str(tmp_path / "progress.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 8
    thirds = frames[7].reshape(frames[7].shape[0], 3, -1, 3).std(axis=(0, 2, 3))  # the last block's views, or white
    assert (thirds > 10).tolist() == [True, sizes[1] > 1, sizes[1] > 2]
