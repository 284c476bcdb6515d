"""Cars and shapes made of numbers: the same from the same seed, whole, upright, and what they are said to be."""

import json

import numpy as np
import pytest
from build_contents import contents
from scipy.spatial import cKDTree

from mvgenvs.data.opencars import __main__ as script
from mvgenvs.data.opencars import procedural
from mvgenvs.data.opencars.build import Recipe, build
from mvgenvs.data.procedural.body import Body
from mvgenvs.data.procedural.cars import random_car
from mvgenvs.data.procedural.form import KINDS, draw_form
from mvgenvs.data.procedural.shapes import random_shape, random_solid
from mvgenvs.data.procedural.solids import box, ellipsoid, torus, tube, volume
from mvgenvs.data.srn import SRNScenes
from mvgenvs.errors import UserError
from mvgenvs.meshes.mesh import Mesh
from mvgenvs.meshes.renderer import Renderer

SOME = range(40)


def corners(mesh: Mesh, *names: str) -> np.ndarray:
    """The triangles of the parts whose names begin so."""
    chosen = [part.positions[part.triangles] for part in mesh.parts if part.name.startswith(names)]
    return np.concatenate(chosen)


def is_closed(triangles: np.ndarray) -> bool:
    """Every edge is run through once in each direction."""
    _, points = np.unique(np.round(triangles.reshape(-1, 3), 6) + 0.0, axis=0, return_inverse=True)
    faces = points.reshape(-1, 3)
    edges = [tuple(edge) for edge in np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).tolist()]
    return len(set(edges)) == len(edges) and {(b, a) for a, b in edges} == set(edges)


@pytest.mark.parametrize("list_entries", [procedural.cars, procedural.shapes])
def test_an_object_depends_on_the_seed_and_its_number_alone(list_entries):
    few, many, other = list_entries(2, 0), list_entries(5, 0), list_entries(2, 1)
    assert [entry.id for entry in many[:2]] == [entry.id for entry in few]
    one, again, second, elsewhere = (entry.load() for entry in (few[0], many[0], few[1], other[0]))
    assert [part.name for part in one.parts] == [part.name for part in again.parts]
    for part, same in zip(one.parts, again.parts, strict=True):
        np.testing.assert_array_equal(part.positions, same.positions)
        if part.material.texture is not None:
            np.testing.assert_array_equal(part.material.texture, same.material.texture)
    for different in (second, elsewhere):
        assert not np.allclose(one.bounds(), different.bounds())


def test_simple_solids_are_closed_and_not_inside_out():
    start, end = np.array([0.0, 1, 2]), np.array([1.0, 3, 2])
    assert volume(box((1.0, 2.0, 3.0), (0.5, 1.0, 2.0))) == pytest.approx(8)
    assert volume(ellipsoid((1.0, 2.0, 3.0), (1.0, 2.0, 0.5), 64)) == pytest.approx(4 / 3 * np.pi, rel=0.01)
    assert volume(tube(start, end, 0.3, 64)) == pytest.approx(np.pi * 0.09 * np.sqrt(5), rel=0.01)
    assert volume(torus(1.0, 0.2, 64)) == pytest.approx(2 * np.pi**2 * 0.8 * 0.2**2, rel=0.01)
    for solid in (
        box((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        ellipsoid((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        tube(start, end, 0.3),
        torus(1.0, 0.2),
    ):
        assert is_closed(solid)
    for seed in SOME:
        solid = random_solid(np.random.default_rng(seed))
        assert is_closed(solid)
        assert volume(solid) > 0


def test_a_cars_shape_is_alike_left_and_right_and_stands_on_its_wheels():
    for seed in SOME:
        car = random_car(np.random.default_rng(seed))
        for part in car.parts:
            assert np.isfinite(part.positions).all()
            if not part.name.startswith(("wheel_", "exhaust")):
                apart, _ = cKDTree(part.positions).query(part.positions * np.array([-1, 1, 1]))
                assert apart.max() < 1e-6, part.name
        lowest = [corners(car, f"wheel_{name}")[..., 1].min() for name in ("fl", "fr", "rl", "rr")]
        assert np.ptp(lowest) < 1e-6
        assert lowest[0] == pytest.approx(0, abs=0.01)
        assert car.bounds()[0][1] == pytest.approx(lowest[0])
        left, right = corners(car, "wheel_fl", "wheel_rl"), corners(car, "wheel_fr", "wheel_rr")
        assert left[..., 0].max() < 0 < right[..., 0].min()
        assert 1000 < car.num_triangles < 6000


def test_the_body_is_not_inside_out_and_the_front_is_at_minus_z():
    seen = set()
    for seed in range(120):
        form = draw_form(np.random.default_rng(seed))
        seen.add(form.kind)
        body = Body(form)
        painted, dark = body.triangles()
        assert 0.15 < volume(np.concatenate([painted, dark])) / (form.length * form.body_width * form.belt) < 1.0
        if form.kind in ("sedan", "hatchback", "estate", "coupe", "suv", "pickup"):
            bonnet, roof = form.cowl_s - form.length / 2, (form.roof_front_s + form.roof_rear_s - form.length) / 2
            assert bonnet < roof  # the bonnet lies before the cabin, and below it
            assert form.nose < form.cowl < form.height
    assert seen == set(KINDS)


def test_a_back_has_a_window_and_red_lamps():
    """Seen in the texture: the rear panel alone is strongly red at both of its sides, the front panel never is."""
    red_at_rear = red_at_front = 0
    for seed in SOME:
        body = next(part for part in random_car(np.random.default_rng(seed)).parts if part.name == "body")
        pixels = body.material.texture[384:, :, :3].astype(int)
        red = (pixels[..., 0] > 140) & (pixels[..., 1] < 60) & (pixels[..., 2] < 60)
        red_at_front += red[:, :192].mean() > 0.005
        red_at_rear += red[:, 192:288].mean() > 0.005 and red[:, 288:384].mean() > 0.005
    assert red_at_rear > 0.9 * len(SOME)
    assert red_at_front < 0.3 * len(SOME)  # red cars


def test_shapes_are_of_one_to_nine_solids_with_textures():
    counts = set()
    for seed in range(60):
        shape = random_shape(np.random.default_rng(seed))
        solids = [part for part in shape.parts if not part.name.endswith("mirrored")]
        counts.add(len(solids))
        for part in shape.parts:
            assert part.material.texture is not None
            assert volume(part.positions[part.triangles]) > 0
    assert counts == set(range(1, 10))


def test_a_larger_count_only_adds_and_the_same_seed_gives_the_same_bytes(tmp_path):
    try:
        Renderer(8)
    except UserError as error:
        pytest.skip(str(error))

    def recipe(count: int) -> Recipe:
        return Recipe("procedural-cars", size=32, views=2, seed=3, count=count)

    out = tmp_path / "out"
    assert build(out, tmp_path / "none", recipe(1)) == 1
    first = contents(out / "procedural-cars_train")
    assert build(out, tmp_path / "none", recipe(3)) == 2
    assert first.items() <= contents(out / "procedural-cars_train").items()
    build(tmp_path / "whole", tmp_path / "none", recipe(3))
    assert contents(tmp_path / "whole") == contents(out)
    with pytest.raises(UserError, match=r"built otherwise \(count differ\)"):
        build(out, tmp_path / "none", recipe(2))
    scenes = SRNScenes(out, "train", 32)
    assert len(scenes) == 3
    metadata = json.loads((out / "procedural-cars_train/procedural_car_3_000000/metadata.json").read_text())
    assert (metadata["licence"], metadata["source"]["package"]) == ("CC0-1.0", "mvgenvs")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--category", "procedural-cars", "--count", "0"], "'0' is not a whole number of at least 1"),
        (["--category", "procedural-shapes"], "category procedural-shapes needs --count"),
        (["--category", "cars", "--count", "5"], "category cars has as many objects as its packages hold"),
    ],
)
def test_a_mistaken_count_is_one_sentence(tmp_path, words, message):
    with pytest.raises(UserError, match=message):
        script.main(["--output", str(tmp_path), *words])
