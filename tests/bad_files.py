"""A folder of files as users mistakenly give them, for the table in `test_bad_input.py`."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import torch
from repeating import CAMERA, CAR
from test_fuzz_parsers import obj, png_of
from tiny_data import write_opencars

SINGLE = {"transform_matrix": torch.eye(4).tolist(), "fl_x": 100.0, "w": 64, "h": 64}
POSE = torch.eye(4).tolist()
JSON: dict[str, object] = {
    "list": [1, 2],
    "nothing": {},
    "empty_frames": {"frames": []},
    "no_pose": {"fl_x": 1.0, "w": 1, "h": 1},
    "fisheye": SINGLE | {"camera_model": "OPENCV_FISHEYE"},
    "sphere": SINGLE | {"camera_model": "EQUIRECTANGULAR"},
    "distorted": SINGLE | {"k1": 0.1},
    "rolling": SINGLE | {"rolling_shutter": [0, 0, 1, 0]},
    "words": SINGLE | {"fl_x": "long"},
    "negative": SINGLE | {"fl_x": -5},
    "zero": SINGLE | {"w": 0},
    "huge": SINGLE | {"w": 10**12},
    "far": SINGLE | {"transform_matrix": [[1, 0, 0, 1e30], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]},
    "sheared": SINGLE | {"transform_matrix": [[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]},
    "oblong": SINGLE | {"w": 128},
    "two": {"fl_x": 100.0, "w": 64, "h": 64, "frames": [{"transform_matrix": POSE}] * 2},
    "camera": json.loads(Path(CAMERA).read_text()),
}
YAML = {
    "list": "- 1\n- 2\n",
    "typo": "optim:\n  stesp: 3\n",
    "section": "optimm:\n  steps: 3\n",
    "bomb": "a: &a [x]\nb: [*a, *a]\n",
    "broken": "optim: [\n",
    "number": "optim: 3\n",
    "text": "just words\n",
    "recipe": "minutes: 1\nstages: {}\n",
    "good": "loss:\n  rgb: 1.0\nrun:\n  train: [nerf]\n  tracker: none\n",
}


def write_bad_files(folder: Path) -> Path:
    """Writes them all, and beside them what is whole: car.png, car.json, data/, car.obj."""
    shutil.copy(CAR, folder / "car.png")
    shutil.copy(CAMERA, folder / "car.json")
    for name, content in JSON.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "nan.json").write_text(json.dumps(SINGLE).replace("100.0", "NaN"))
    (folder / "deep.json").write_text("[" * 100_000)
    (folder / "latin.json").write_bytes(b'{"a": "caf\xe9"}')
    for name, text in YAML.items():
        (folder / f"{name}.yaml").write_text(text)
    (folder / "latin.yaml").write_bytes(b"run:\n  output: caf\xe9\n")
    car = (folder / "car.png").read_bytes()
    pictures = {
        "empty": b"",
        "text": b"my car is red",
        "cut": car[: len(car) // 2],
        "bomb": png_of(60_000, 60_000, b"x"),
    }
    for name, data in pictures.items():
        (folder / f"{name}.png").write_bytes(data)
    for name, size, value in (("one", 1, 9), ("black", 128, 0), ("white", 128, 255)):
        cv2.imwrite(str(folder / f"{name}.png"), np.full((size, size, 3), value, np.uint8))
    cv2.imwrite(str(folder / "clear.png"), np.zeros((128, 128, 4), np.uint8))
    (folder / "car.obj").write_bytes(obj(folder))
    (folder / "text.obj").write_text("a car")
    (folder / "text.ac").write_text("a car")
    (folder / "text.glb").write_text("a car")
    (folder / "lost.obj").write_text("v 0 0 0\nf 1 2 3\n")
    (folder / "void").mkdir()
    (folder / "fake").mkdir()
    (folder / "fake/model_index.json").write_text("{}")
    (folder / "half").mkdir()
    (folder / "half/model_index.json").write_text('{"_class_name": ')
    write_opencars(folder / "data", {"train": 1, "test": 1}, views=2)
    (folder / "capture").mkdir()
    (folder / "capture/transforms.json").write_text("{")
    (folder / "others").mkdir()
    (folder / "others/thesis.tex").write_text("mine")
    return folder
