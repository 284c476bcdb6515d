"""`infer_multiview.py --export`: files beside the views, made once they are there, and what can go wrong.

The pipeline is a stand-in that repeats its input, and its field is a true box.
"""

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace

import pytest
from repeating import CAMERA, CAR, ROOT, infer, stand_in
from tiny import SIZE, Solid, ray_cast, ring_cameras, tiny_pipeline

from mvgenvs import exporting, generation
from mvgenvs.errors import UserError
from mvgenvs.meshes.files import load_mesh
from mvgenvs.nerf.model import Rendering
from mvgenvs.reconstruction import formats
from mvgenvs.reconstruction.observations import observe
from mvgenvs.trajectories import evenly_spread

BOX = Solid((0.0, 0.0, 0.0), (0.15, 0.1, 0.3), (0.2, 0.5, 0.8))
IMAGE = ["--image", CAR, "--camera", CAMERA]


def box_field(*_):
    def render(cameras):
        seen = ray_cast([BOX], replace(cameras, c2w=cameras.c2w[0], K=cameras.K[0]))
        return Rendering(seen.images[None], seen.depth[None], seen.mask[None])

    return render


@pytest.fixture
def pipeline(monkeypatch):
    monkeypatch.setattr(exporting, "lifted_field", box_field)
    return stand_in(monkeypatch)


def export(folder, *arguments):
    return infer(*IMAGE, "--output", folder, "--num-views", 4, *arguments)


def record(folder):
    return json.loads((folder / "run.json").read_text())


def test_all_formats_lie_beside_the_views(tmp_path, pipeline):
    assert export(tmp_path, "--export", "glb", "ply", "splats") == 0
    made = ["mesh.glb", "points.ply", "splats.ply"]
    names = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")}
    assert names == {"frames", "orbit.mp4", "contact_sheet.png", "cameras.json", "run.json", *made}
    assert record(tmp_path)["exports"] == made
    assert record(tmp_path)["settings"]["export"] == ["glb", "ply", "splats"]
    assert set(made) <= set((tmp_path / ".mvgenvs").read_text().splitlines())
    low, high = load_mesh(tmp_path / "mesh.glb").bounds()
    assert high - low == pytest.approx([0.3, 0.2, 0.6], abs=0.02), "the world's axes: long in z"


def test_views_that_are_there_are_exported_and_not_made_again(tmp_path, pipeline, capsys):
    export(tmp_path, "--export", "ply")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "frames").iterdir()}
    first = (tmp_path / "points.ply").read_bytes()
    export(tmp_path, "--export", "splats")
    assert len(pipeline.calls) == 1
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "frames").iterdir()} == before
    assert record(tmp_path)["exports"] == ["points.ply", "splats.ply"]
    assert (tmp_path / "points.ply").read_bytes() == first
    assert "All 4 views are in" in capsys.readouterr().out


def test_views_made_without_export_can_be_exported_later(tmp_path, pipeline):
    export(tmp_path)
    export(tmp_path, "--export", "ply")
    assert len(pipeline.calls) == 1
    assert (tmp_path / "points.ply").exists()


def test_views_of_other_settings_or_incomplete_ones_are_made_again(tmp_path, pipeline):
    export(tmp_path, "--export", "ply")
    export(tmp_path, "--export", "ply", "--seed", 5)
    assert len(pipeline.calls) == 2
    (tmp_path / "frames/002.png").unlink()
    export(tmp_path, "--export", "ply", "--seed", 5)
    assert len(pipeline.calls) == 3
    (tmp_path / "run.json").write_text("no record")
    export(tmp_path, "--export", "ply", "--seed", 5)
    assert len(pipeline.calls) == 4


def test_new_views_leave_no_exports_of_old_ones(tmp_path, pipeline):
    export(tmp_path, "--export", "ply", "splats")
    export(tmp_path, "--seed", 5)
    assert not (tmp_path / "points.ply").exists() and not (tmp_path / "splats.ply").exists()
    assert "exports" not in record(tmp_path)


def test_files_of_others_are_left_alone(tmp_path, pipeline):
    (tmp_path / "points.ply").write_text("mine")
    with pytest.raises(UserError, match=r"points\.ply was not written by this program"):
        export(tmp_path, "--export", "ply")
    assert not pipeline.calls
    export(tmp_path, "--export", "splats")
    assert (tmp_path / "points.ply").read_text() == "mine"


def test_an_object_that_is_not_there_costs_no_views(tmp_path, pipeline, monkeypatch):
    monkeypatch.setattr(f"{__name__}.BOX", Solid((9.0, 9.0, 9.0), 0.1, (0.0, 0.0, 0.0)))
    with pytest.raises(UserError, match="there is no object in these views"):
        export(tmp_path, "--export", "ply")
    assert len(list((tmp_path / "frames").iterdir())) == 4
    assert not (tmp_path / "points.ply").exists()


def test_what_cannot_be_exported_is_known_before_the_model_is_loaded(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(generation, "load_model", lambda *_: pytest.fail("the model was loaded"))
    with pytest.raises(UserError, match="--export needs at least 3 views, and this trajectory has 2"):
        infer(*IMAGE, "--output", tmp_path, "--num-views", 2, "--export", "ply")
    find = importlib.util.find_spec
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: None if name == "skimage" else find(name))
    with pytest.raises(UserError, match=r"--export glb needs skimage: run `pip install 'mvgenvs\[mesh\]'`"):
        export(tmp_path, "--export", "glb")
    with pytest.raises(SystemExit) as caught:
        export(tmp_path, "--export", "obj")
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert "obj" in message and "glb" in message and message.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("known", [0, 1])
def test_a_field_is_lifted_from_the_known_views_or_else_from_the_generated_ones(known):
    views = ray_cast([BOX], ring_cameras(6))
    given = (views.rgba[:1][None], views.cameras.select([0]).batched()) if known else (None, None)
    field = exporting.lifted_field(tiny_pipeline(), *given, views.images, views.cameras)
    seen = observe(field, ring_cameras(2))
    assert seen.images.shape == (2, 3, SIZE, SIZE)
    assert seen.images.isfinite().all() and 0 <= seen.opacity.min() <= seen.opacity.max() <= 1


def test_points_and_splats_need_no_extra():
    code = (
        "import sys\nsys.modules.update(dict.fromkeys(['skimage', 'trimesh', 'xatlas']))\n"
        "from mvgenvs.reconstruction.formats import check_export\nimport mvgenvs.exporting\n"
        "check_export(['ply', 'splats'], 24)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("number", "most", "closed", "expected"), [
    (4, 48, False, [0, 1, 2, 3]), (100, 3, False, [0, 50, 99]), (24, 3, True, [0, 8, 16]), (1, 3, True, [0]),
])  # fmt: skip
def test_views_are_chosen_evenly(number, most, closed, expected):
    assert evenly_spread(number, most, closed) == pytest.approx(expected, abs=1)
