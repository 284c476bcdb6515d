"""The published table of ShapeNet-SRN, from an archive with all that is odd about the real ones."""

import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from toy_eval import OBJECTS, FakePipeline, read_summary

from eval.srn import CARS, TABLE, main, unpack_test
from mvgenvs.data.srn import SRNScenes
from mvgenvs.errors import UserError


@pytest.fixture
def archive(srn_data: Path, tmp_path: Path) -> Path:
    """As downloaded: a folder around it, other splits, leftovers of macOS, a white car."""
    path = tmp_path / "srn_cars.zip"
    white = cv2.imencode(".png", np.full((16, 16, 3), 255, np.uint8))[1].tobytes()
    with zipfile.ZipFile(path, "w") as out:
        for file in sorted(srn_data.rglob("*.*")):
            name = file.relative_to(srn_data).as_posix()
            is_white = OBJECTS[2] in name and file.suffix == ".png"
            out.writestr(f"srn_cars/{name}", white if is_white else file.read_bytes())
        out.writestr("srn_cars/cars_train/other/rgb/000000.png", b"never unpacked")
        out.writestr("srn_cars/cars_test/.DS_Store", b"odd")
        out.writestr(f"srn_cars/cars_test/{OBJECTS[0]}/rgb/.DS_Store", b"odd")
        out.writestr(f"__MACOSX/srn_cars/cars_test/{OBJECTS[0]}/rgb/000000.png", b"odd")
        out.writestr("../cars_test/evil/rgb/000000.png", b"outside")
    return path


def test_the_archive_as_downloaded_becomes_the_published_table(
    archive: Path, pipeline: FakePipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "report"
    main(["--archive", str(archive), "--output", str(output)])
    table = (output / TABLE).read_text()
    assert table in capsys.readouterr().out
    summary = read_summary(output)
    assert summary["num_objects"] == 3 and summary["num_images"] == 12
    assert "3 objects, 12 views" in table and "Not comparable" in table
    psnr = summary["table"]["joint"]["psnr"]
    assert f"| **joint** | {psnr:.2f} |" in table and "**nerf**" in table
    assert all(each.system in table and each.source in table for each in CARS)
    unpacked = archive.with_suffix("")
    assert {path.name for path in unpacked.iterdir()} == {"cars_test"}
    assert {path.name for path in (unpacked / "cars_test").iterdir()} == set(OBJECTS)
    assert not list(unpacked.rglob(".DS_Store")) and not (tmp_path / "cars_test").exists()
    white = SRNScenes(unpacked, "test", 16).read(2)
    assert white.view_set().mask.max() == 0, "nothing of a white car tells it from the background"


def test_an_archive_that_lacks_a_view_is_one_sentence(archive: Path, pipeline: FakePipeline, tmp_path: Path) -> None:
    for file in (unpack_test(archive, tmp_path / "srn_cars") / "cars_test" / OBJECTS[1]).glob("*/000110.*"):
        file.unlink()
    with pytest.raises(UserError, match=f"{OBJECTS[1]} lacks view 000110"):
        main(["--archive", str(archive), "--output", str(tmp_path / "report")])
    assert not (tmp_path / "report" / TABLE).exists()


def test_what_was_unpacked_stays_and_a_stopped_unpacking_goes_on(archive: Path, tmp_path: Path) -> None:
    folder = tmp_path / "somewhere"
    unpack_test(archive, folder)
    mark = folder / "cars_test" / OBJECTS[0] / "mine"
    mark.write_text("here")
    for file in (folder / "cars_test" / OBJECTS[1]).rglob("*.*"):
        file.unlink()
    (folder / "cars_test" / OBJECTS[1]).rename(folder / "cars_test" / f".{OBJECTS[1]}.partial")
    unpack_test(archive, folder)
    assert mark.exists() and len(SRNScenes(folder, "test", 16).objects) == 3
    assert not list(folder.rglob("*.partial"))


@pytest.mark.parametrize("content", ["", "no zip", None])
def test_other_files_are_one_sentence(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "other.zip"
    if content is None:
        with zipfile.ZipFile(path, "w") as out:
            out.writestr("readme.txt", "nothing")
    elif content:
        path.write_text(content)
    with pytest.raises(UserError, match=r"no archive|cannot unpack|no test split"):
        main(["--archive", str(path), "--output", str(tmp_path / "report")])
    assert not (tmp_path / "report").exists() and not (tmp_path / "other").exists()


def test_a_folder_is_read_where_it_is(srn_data: Path, pipeline: FakePipeline, tmp_path: Path) -> None:
    output = tmp_path / "report"
    main(["--archive", str(srn_data), "--inputs", "2", "--num-objects", "1", "--output", str(output)])
    assert read_summary(output)["num_images"] == 3
