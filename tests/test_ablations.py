"""Ablations: every row is a configuration that can be built, and what is trained alike is compared in pairs."""

from pathlib import Path

import pytest
import yaml
from tiny import write_srn

from eval import ablations
from eval.protocols import ORBIT_TARGETS
from eval.studies import ablation_runs
from eval.studies.ablation_models import GROUPS, Ablation, Group
from eval.studies.ablation_runs import difference
from mvgenvs.config import load_config
from mvgenvs.parts import build_parts

TINY = {
    "data": {"size": 32, "num_views": 3, "max_known": 1},
    "codec": {"channels": 8, "refiner_width": 16, "refiner_blocks": 1},
    "nerf": {"encoder_widths": [16, 16, 16], "volume_depth": 4, "num_coarse": 4, "num_fine": 4},
    "denoiser": {"render_size": 8, "block_out_channels": [16, 32]},
    "loss": {"denoise": 1.0},
    "optim": {"steps": 1, "batch": 1, "warmup": 1},
    "run": {"train": ["denoiser"], "validate_every": -1, "tracker": "none"},
}


@pytest.mark.parametrize("name", GROUPS)
def test_every_model_can_be_built_and_differs_from_the_first(name: str) -> None:
    group = GROUPS[name]
    whole = load_config(group.config)
    for model in group.models[1:]:
        config = load_config(group.config, model.changes)
        build_parts(config)
        assert config != whole
    assert len({model.folder for model in group.models}) == len(group.models)


def test_differences_are_paired() -> None:
    assert difference([1.0, 3.0, 2.0], [1.1, 3.1, 2.1]) == "+5.0% (+5.0 to +5.0)"


def test_models_are_trained_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(TINY))
    models = (
        Ablation("everything", {}, ("--steps", "1", "--guidance", "1", "--lpips-nets")),
        Ablation("ray map alone", {"loss.drop_condition": "1"}, ("--steps", "1", "--guidance", "0", "--lpips-nets")),
    )
    monkeypatch.setattr(ablation_runs, "NUM_SETS", 3)
    monkeypatch.setattr(ablations, "GROUPS", {"denoiser": Group(config, ("denoise",), "joint", models)})
    data = write_srn(tmp_path / "data", {"train": 1, "val": 1}, views=ORBIT_TARGETS + 1)
    command = ["--data", str(data), "--output", str(tmp_path / "out"), "--workers", "2"]
    ablations.main(command)
    table = (tmp_path / "out" / "denoiser.md").read_text()
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == ["everything", "ray map alone"]
    for log in (tmp_path / "out").rglob("*.log"):
        log.unlink()
    ablations.main(command)  # nothing is done again
    assert not list((tmp_path / "out").rglob("*.log"))
    assert table.strip() in capsys.readouterr().out
