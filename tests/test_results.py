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


def complete_run(folder, num_views, generator):
    with ResultsFolder(folder, num_views) as results:
        fill(results, range(num_views), generator)
        finish(results, num_views)


def names_in(folder):
    """All but hidden files."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_complete_run(tmp_path, generator):
    with ResultsFolder(tmp_path / "out", 5) as results:
        images = fill(results, [4, 0, 2, 1, 3], generator)
        finish(results, 5)
    assert names_in(tmp_path / "out") == ["cameras.json", "contact_sheet.png", "frames", "orbit.mp4", "run.json"]
    assert (read_png(tmp_path / "out/frames/004.png") == to_uint8(images[0])).all()
    file_paths, cameras = read_transforms(tmp_path / "out/cameras.json")
    assert [(tmp_path / "out" / name).exists() for name in file_paths] == [True] * 5
    assert cameras.num_views == 5
    assert json.loads((tmp_path / "out/run.json").read_text())["settings"]["seed"] == 3
    with av.open(str(tmp_path / "out/orbit.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 5


def test_a_frame_made_again_replaces_the_earlier_one_in_the_contact_sheet_too(tmp_path, generator):
    with ResultsFolder(tmp_path / "once", 3) as results:
        images = fill(results, [0, 1, 2], generator)
        results.summarize(None, orbit(3, hw=(32, 32)))
    with ResultsFolder(tmp_path / "again", 3) as again:
        again.begin()
        for index in (0, 1, 2, 0):
            image = images[index] if index or (again.partial / again.names[0]).exists() else 1 - images[0]
            again.add(index, image, image, torch.ones(1, 32, 32))
        again.summarize(None, orbit(3, hw=(32, 32)))
    for name in ("frames/000.png", "contact_sheet.png"):
        assert (read_png(results.partial / name) == read_png(again.partial / name)).all()


def test_a_shorter_run_leaves_no_stale_frames_and_other_files_alone(tmp_path, generator):
    for num_views in (5, 2):
        complete_run(tmp_path, num_views, generator)
        for mine in ("mine.txt", "frames/mine.png"):
            (tmp_path / mine).touch()
    assert names_in(tmp_path / "frames") == ["000.png", "001.png", "mine.png"]
    assert (tmp_path / "mine.txt").exists()


FOREIGN = ("frames/000.png", "frames/0001.png", "partial/note.txt", "partial", "run.json", "orbit.mp4", "frames")


@pytest.mark.parametrize("name", FOREIGN)
def test_a_folder_with_files_of_others_where_results_go_is_refused(tmp_path, name):
    """A car.png as p/frames/0001.png was deleted by `--output p`."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match="was not written by this program"):
        ResultsFolder(tmp_path, 3)
    assert (tmp_path / name).read_text() == "mine"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / name]


def test_what_others_put_into_an_unfinished_run_stays(tmp_path, generator):
    with ResultsFolder(tmp_path, 3) as results:
        fill(results, [0], generator)
    for mine in ("partial/mine.txt", "partial/frames/0001.png"):
        (tmp_path / mine).write_text("mine")
    complete_run(tmp_path, 3, generator)
    for mine in ("partial/mine.txt", "partial/frames/0001.png"):
        assert (tmp_path / mine).read_text() == "mine"
    assert names_in(tmp_path / "frames") == ["000.png", "001.png", "002.png"]


def test_what_others_put_where_a_long_run_will_write_stays(tmp_path, generator):
    with ResultsFolder(tmp_path, 3) as results:
        fill(results, range(3), generator)
        (tmp_path / "orbit.mp4").write_text("mine")
        with pytest.raises(UserError, match=r"orbit\.mp4 was not written by this program"):
            finish(results, 3)
    assert (tmp_path / "orbit.mp4").read_text() == "mine"
    assert len(names_in(results.partial / "frames")) == 3


def test_inputs_among_earlier_results_are_not_replaced(tmp_path, generator):
    complete_run(tmp_path, 5, generator)
    picture = tmp_path / "frames/004.png"
    before = picture.read_bytes()
    with pytest.raises(UserError, match=r"004\.png is where a result would be written: choose another --output"):
        ResultsFolder(tmp_path, 2, [picture])
    assert picture.read_bytes() == before


def test_results_of_a_version_that_kept_no_list_are_known_by_their_record(tmp_path, generator):
    complete_run(tmp_path, 5, generator)
    (tmp_path / ".mvgenvs").unlink()
    (tmp_path / "run.json").write_text(json.dumps({"settings": {"num_views": 5}, "versions": {"mvgenvs": "0.1.0"}}))
    complete_run(tmp_path, 2, generator)
    assert names_in(tmp_path / "frames") == ["000.png", "001.png"]


def test_an_unfinished_run_keeps_the_earlier_results_and_its_own_frames(tmp_path, generator):
    complete_run(tmp_path, 3, generator)
    with ResultsFolder(tmp_path, 8) as results:
        fill(results, range(6), generator)
    assert len(names_in(tmp_path / "frames")) == 3
    assert len(names_in(tmp_path / "partial/frames")) == 6


def test_two_runs_never_write_to_one_folder(tmp_path, generator):
    with ResultsFolder(tmp_path, 3) as results:
        fill(results, range(3), generator)
        with pytest.raises(UserError, match="another run is writing to --output"):
            ResultsFolder(tmp_path, 2)
        finish(results, 3)
    complete_run(tmp_path, 2, generator)


def test_long_runs_keep_no_pictures_in_memory(tmp_path, generator):
    with ResultsFolder(tmp_path, 1200) as results:
        assert results.names[-1] == "frames/1199.png"
        fill(results, range(900, 1200), generator)
    assert len(names_in(tmp_path / "partial/thumbnails")) == 2 * 12
    assert not [value for value in vars(results).values() if isinstance(value, torch.Tensor | dict)]


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
