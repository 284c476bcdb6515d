"""Files of ours can be read by whoever may read any new file of the same user."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from tiny import tiny_pipeline

from mvgenvs.files import atomically
from mvgenvs.training.checkpoint import save_fp16


def test_weights_and_data_are_not_for_their_owner_alone(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    atomically(tmp_path / "x.safetensors", lambda partial: save_file({"x": torch.zeros(2)}, partial))
    save_fp16(tiny_pipeline(), tmp_path / "pipeline")
    written = [tmp_path / "x.safetensors", *(tmp_path / "pipeline").glob("*/*.*")]
    assert len(written) > 4
    assert {path.stat().st_mode for path in written} == {plain.stat().st_mode}
