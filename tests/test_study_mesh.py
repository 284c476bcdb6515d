"""The study of exported meshes: the true mesh is faultless, a shifted one is not."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from shapes import toy_car
from tiny import SIZE, tiny_pipeline
from tiny_data import write_opencars

from eval.metrics.suite import MetricSuite
from eval.studies import mesh
from mvgenvs.data.srn import SRNScenes
from mvgenvs.errors import UserError
from mvgenvs.meshes.renderer import Renderer


def test_distances_and_score_of_points() -> None:
    truth = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    points = np.array([[0.01, 0.0, 0.0], [1.0, 0.05, 0.0], [1.0, 0.0, 0.0]])
    figures = mesh.distances(points, truth)
    assert figures["chamfer"] == pytest.approx(((0.01 + 0.05 + 0.0) / 3 + (0.01 + 0.0) / 2) / 2)
    precision, recall = 2 / 3, 1.0
    assert figures["f-score"] == pytest.approx(2 * precision * recall / (precision + recall))
    assert mesh.distances(np.empty((0, 3)), truth) == {"chamfer": None, "f-score": 0.0}


def test_a_mesh_near_the_true_one_beats_a_shifted_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        Renderer(8)
    except UserError as error:
        pytest.skip(str(error))
    write_opencars(tmp_path, {"val": 1}, views=30)
    scenes, tables = SRNScenes(tmp_path, "val", SIZE), {}
    for name, shift in (("right", 0.0), ("wrong", 0.1)):
        matrix = np.eye(4)
        matrix[0, 3] = shift
        drawn = toy_car().transformed(matrix)

        def exported(_, __, targets, ___, drawn=drawn):
            return mesh.Exported(torch.ones(targets.num_views, 3, SIZE, SIZE), drawn, 1.5)

        monkeypatch.setattr(mesh, "exported", exported)
        (tmp_path / name).mkdir()
        text = mesh.study(tmp_path / name, tiny_pipeline(), scenes, 1, MetricSuite())
        tables[name] = json.loads((tmp_path / name / "mesh.json").read_text())["table"]["mean"]
        assert "Chamfer" in text and (tmp_path / name / "mesh.png").exists()
    assert tables["right"]["seconds"] == 1.5 and tables["right"]["lpips"] is None
    assert tables["right"]["f-score"] > 0.9 > 0.7 > tables["wrong"]["f-score"]
    assert tables["right"]["chamfer"] < 0.02 < tables["wrong"]["chamfer"]
