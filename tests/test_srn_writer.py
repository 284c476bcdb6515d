"""Objects of a data set replace what this program wrote before, and nothing else."""

import numpy as np
import pytest
from tiny import ring_cameras

from mvgenvs.data.srn_writer import PARTIAL, clear_partial, write_object
from mvgenvs.errors import UserError
from mvgenvs.meshes.renderer import RenderedViews


def write(root, views):
    shape = (views, 8, 8)
    rendered = RenderedViews(np.zeros((*shape, 3), np.uint8), np.zeros(shape, np.uint8), np.ones(shape, np.float32))
    folder = root / "objects_test" / "cube"
    write_object(folder, root / PARTIAL, rendered, ring_cameras(views, 8), "png", {"id": "cube"})
    return folder


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("mine", ["rgb/000000.png", "metadata.json", "photo.jpg"])
def test_a_folder_of_others_is_not_replaced(tmp_path, mine):
    """`objects_test/cube` with a user's own pictures went when a cube.obj was rendered."""
    path = tmp_path / "objects_test/cube" / mine
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    with pytest.raises(UserError, match="was not written by this program"):
        write(tmp_path, 2)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [path]


def test_an_object_is_replaced_unless_others_keep_files_in_it(tmp_path):
    write(tmp_path, 2)
    folder = write(tmp_path, 1)
    assert names_in(folder / "rgb") == ["000000.png"]
    assert names_in(tmp_path / PARTIAL) == []
    (folder / "rgb/mine.png").touch()
    with pytest.raises(UserError, match=r"mine\.png was not written by this program"):
        write(tmp_path, 3)
    assert names_in(folder / "rgb") == ["000000.png", "mine.png"]


def test_what_a_killed_run_left_goes_and_what_others_put_there_stays(tmp_path):
    partial = tmp_path / PARTIAL
    (partial / "cube/rgb").mkdir(parents=True)
    (partial / "cube/rgb/000007.png").touch()
    folder = write(tmp_path, 1)
    assert names_in(folder / "rgb") == ["000000.png"]
    (partial / "cube").mkdir()
    (partial / "cube/mine.txt").touch()
    for clear in (lambda: write(tmp_path, 1), lambda: clear_partial(partial)):
        with pytest.raises(UserError, match="holds what this program did not write"):
            clear()
    assert (partial / "cube/mine.txt").exists()
