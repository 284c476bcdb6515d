"""The sources of general objects: FlightGear's scenery and Sweet Home 3D's furniture, and `objects`, which is all."""

import fnmatch
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from debs import write_deb

from mvgenvs.data.opencars import flightgear, furniture, scenery, sweethome3d
from mvgenvs.data.opencars.build import Recipe, Task, list_tasks, unpacked_sources
from mvgenvs.data.opencars.categories import CATEGORIES, Category, Source
from mvgenvs.errors import UserError
from mvgenvs.meshes.mesh import Material, Mesh, MeshPart

SCENERY = scenery.objects(Path("root"))
OBJ = "v 0 0 0\nv 1 0 0\nv 0 1 0\nusemtl {material}\nf 1 2 3\n"


def archive(path: Path, catalogue: str, models: list[tuple[str, str]], material: str = "paint") -> None:
    """A library of (name, category) models of one triangle each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(
        f"name#{n}=Title {n}\nmodel#{n}=/lib/{name}.obj\ncreator#{n}=Somebody\ncategory#{n}={category}\n"
        for n, (name, category) in enumerate(models)
    )
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr(catalogue, text)
        for name, _ in models:
            opened.writestr(f"lib/{name}.obj", OBJ.format(material=material))


@pytest.fixture
def furnished(tmp_path: Path) -> Path:
    """Both packages in one folder."""
    for key, library in furniture.LIBRARIES.items():
        cars = [(name, "Vehicles") for name in sweethome3d.CARS.get(key, ())]
        others = {
            "scopia": [("table", "Living room"), ("cat", "Characters"), ("rattanSofa", "Exterior"),
                       ("door", "Doors and windows"), ("square-plug-TypeE", "Miscellaneous")],
            "ccby": [("bike", "Vehicles"), ("table", "Kitchen")],
            "reallusion": [("female01", "Characters")],
        }  # fmt: skip
        archive(tmp_path / library.file, library.catalogue, cars + others.get(key, []))
    archive(
        tmp_path / furniture.DEFAULTS.file, furniture.DEFAULTS.catalogue,
        [("sofa", "Living room"), ("lightSource", "Lights"), ("texturableBox", "Miscellaneous")], "flbrown",
    )  # fmt: skip
    return tmp_path


def test_there_are_more_than_five_hundred_objects_of_scenery_each_with_its_own_id_and_file() -> None:
    assert len(SCENERY) > 500
    for key in ("id", "file"):
        assert len({getattr(entry, key) for entry in SCENERY}) == len(SCENERY)
    assert [entry.id for entry in SCENERY] == sorted(entry.id for entry in SCENERY)
    for entry in SCENERY:
        assert any(fnmatch.fnmatchcase(entry.file, pattern) for pattern in scenery.MEMBERS)
        assert entry.licence == "GPL-2+" and entry.id.removeprefix("fgfs_") in entry.attribution
        assert not entry.front
    kinds = Counter(entry.kind for entry in SCENERY)
    assert set(kinds) == {"aircraft", "animal", "building", "leisure", "person", "ship", "street"}
    assert {entry.id for entry in scenery.aircraft(Path("root"))} == {e.id for e in SCENERY if e.kind == "aircraft"}


def test_what_is_left_out_by_the_list_is_not_in_it() -> None:
    """The list's comments name it, its lines don't."""
    text = (Path(scenery.__file__).parent / "scenery.txt").read_text()
    comments = "\n".join(line for line in text.splitlines() if line.startswith("#"))
    for name in ("Lighthouse", "A380_services-ba", "DR400-ba", "dam", "cube-apartment"):
        assert name in comments
        assert f"fgfs_{name}" not in {entry.id for entry in SCENERY}
    for entry in SCENERY:
        assert not any(word in entry.file.lower() for word in ("oshkosh", "hoskosh", "humvee"))


def test_families_held_out_are_there_and_vehicles_have_none_of_them() -> None:
    families = Counter(entry.family for entry in SCENERY)
    assert not scenery.VAL & scenery.TEST
    assert {families[family] for family in scenery.VAL | scenery.TEST} == {1}
    assert not set(families) & {entry.family for entry in flightgear.vehicles(Path("root"))}
    assert not {e.id for e in SCENERY} & {e.id for e in flightgear.vehicles(Path("root"))}


def test_furniture_is_everything_but_cars_panels_and_plates(furnished: Path) -> None:
    found = {entry.id: entry for entry in furniture.objects(furnished)}
    assert sorted(found) == [
        "sh3d_ccby_bike", "sh3d_ccby_table", "sh3d_reallusion_female01", "sh3d_scopia_cat", "sh3d_scopia_rattanSofa",
        "sh3d_scopia_table",
    ]  # fmt: skip
    kinds = {name.removeprefix("sh3d_"): entry.kind for name, entry in found.items()}
    assert kinds == {
        "ccby_bike": "vehicle", "ccby_table": "furniture", "reallusion_female01": "person", "scopia_cat": "animal",
        "scopia_rattanSofa": "furniture", "scopia_table": "furniture",
    }  # fmt: skip
    assert found["sh3d_scopia_rattanSofa"].family == "sh3d_scopia_rattanArmchair"  # as in the category of chairs
    assert found["sh3d_reallusion_female01"].licence == "CC-BY-3.0-US"
    assert all(entry.front for entry in found.values())


def test_the_programs_own_models_get_the_colours_that_their_materials_are_called_by(furnished: Path) -> None:
    (sofa,) = furniture.defaults(furnished)
    assert (sofa.id, sofa.package, sofa.licence) == ("sh3d_eteks_sofa", "sweethome3d", "GPL-2+")
    assert sofa.load().parts[0].material.color == furniture.PAINTS["brown"]
    triangle = np.eye(3)

    def part(name: str, **more: object) -> MeshPart:
        return MeshPart("", triangle, np.array([[0, 1, 2]]), None, Material(name, **more))

    mesh = furniture.painted(Mesh((part("bone2"), part("lamp"), part("red", color=(0.1, 0.2, 0.3)))))
    assert [p.material.color for p in mesh.parts] == [furniture.PAINTS["bone"], (0.8, 0.8, 0.8), (0.1, 0.2, 0.3)]


def test_a_library_that_is_damaged_or_missing_is_one_sentence(furnished: Path) -> None:
    (furnished / furniture.DEFAULTS.file).write_bytes(b"PK no archive")
    with pytest.raises(UserError, match=r"cannot read .*sweethome3d\.jar: is the package sweethome3d whole"):
        furniture.defaults(furnished)
    (furnished / furniture.LIBRARIES["reallusion"].file).unlink()
    with pytest.raises(UserError, match=r"cannot read .*Reallusion\.sh3f"):
        furniture.objects(furnished)


def test_objects_are_everything_and_what_one_category_holds_out_is_held_out_of_all() -> None:
    objects = CATEGORIES["objects"]
    for name in ("cars", "vehicles", "furniture"):
        for split, families in CATEGORIES[name].held_out.items():
            assert families
            assert {objects.split_of(family) for family in families} == {split}
    for split, families in CATEGORIES["chairs"].held_out.items():
        assert {CATEGORIES["furniture"].split_of(family) for family in families} == {split}
    parts = [source for name in ("cars", "vehicles", "furniture") for source in CATEGORIES[name].sources]
    assert [source.entries for source in objects.sources] == [*(s.entries for s in parts), scenery.objects]


def test_sources_that_share_a_package_unpack_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def source(pattern: str, kind: str) -> Source:
        from fake_source import entries

        return Source("toys", (f"usr/{pattern}/*",), lambda root: entries(root / "usr" / pattern), kind)

    files = {f"usr/{name}/{name}.obj": OBJ.format(material="a").encode() for name in ("one", "two", "three")}
    write_deb(tmp_path / "toys_1_all.deb", files)
    monkeypatch.setitem(CATEGORIES, "pair", Category((source("one", "first"), source("two", ""))))
    roots, versions = unpacked_sources(tmp_path, "pair", 1)
    assert {path.name for path in roots["toys"].rglob("*.obj")} == {"one.obj", "two.obj"}
    tasks: list[Task] = list_tasks(Recipe("pair"), roots, versions | {"toy-cars": "1"})
    assert [(task.name, task.entry.kind) for task in tasks] == [("one", "first"), ("two", "")]
