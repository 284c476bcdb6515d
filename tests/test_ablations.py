"""Ablations: every row is a configuration that can be built, and what is trained alike is compared in pairs."""

import json
import time
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
from mvgenvs.errors import UserError
from mvgenvs.parts import build_parts
from mvgenvs.training.trainer import check

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
def test_every_model_can_be_built_and_differs_from_the_others(name: str) -> None:
    group = GROUPS[name]
    configs = [load_config(group.config_of(model), model.changes) for model in group.models if model.trained]
    for config in configs:
        build_parts(config)
        check(config)
    assert len({repr(config) for config in configs}) == len(configs)
    assert len({model.folder for model in group.models}) == len(group.models)


def test_differences_are_paired() -> None:
    assert difference([1.0, 3.0, 2.0], [1.1, 3.1, 2.1]) == "+5.0% (+5.0 to +5.0)"


def test_what_is_trained_is_named_by_its_own_configuration() -> None:
    group = GROUPS["baselines"]
    trained = {group.config_of(model) for model in group.models if model.trained}
    assert sorted(trained) == sorted(group.config.parent.glob("*.yaml")), "each configuration has its row"


def test_a_row_that_fails_does_not_stop_those_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def train(group: Group, model: Ablation, setup: ablation_runs.Setup) -> None:
        tried.append(model.name)
        if model.name == "first":
            raise UserError("no luck")

    group = Group(tmp_path / "none.yaml", (), "joint", (Ablation("first"), Ablation("second"), Ablation("third")))
    monkeypatch.setattr(ablations, "GROUPS", {"denoiser": group})
    monkeypatch.setattr(ablations, "train_and_evaluate", train)
    with pytest.raises(UserError, match="no luck"):
        ablations.main(["--data", str(tmp_path), "--output", str(tmp_path / "out")])
    assert tried == ["first", "second", "third"]
    monkeypatch.setattr(ablations, "wait", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    monkeypatch.setattr(ablations, "train_and_evaluate", lambda *_: (time.sleep(0.5), tried.append("more")))
    with pytest.raises(SystemExit, match="130"):
        ablations.main(["--data", str(tmp_path), "--output", str(tmp_path / "out")])
    assert len(tried) <= 4, "the row at work is the last one"


def test_models_are_trained_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(TINY | {"data": TINY["data"] | {"renderings": 2}}))
    models = (
        Ablation("everything", {}, ("--steps", "1", "--guidance", "1", "--lpips-nets")),
        Ablation(
            "ray map alone", {"loss.drop_condition": "1"}, ("--steps", "1", "--guidance", "0", "--lpips-nets"),
            methods=("joint", "nerf"),
        ),
        Ablation("another seed", {"run.seed": "1"}, ("--steps", "1", "--guidance", "1", "--lpips-nets")),
    )  # fmt: skip
    monkeypatch.setattr(ablation_runs, "NUM_SETS", 3)
    monkeypatch.setattr(ablations, "GROUPS", {"denoiser": Group(config, ("denoise",), "joint", models, costs=True)})
    data = write_srn(tmp_path / "data", {"train": 1, "val": 1}, views=ORBIT_TARGETS + 1)
    command = ["--data", str(data), "--output", str(tmp_path / "out"), "--threads", "1", "--minutes", "0.02"]
    ablations.main(command)
    table = (tmp_path / "out" / "denoiser.md").read_text()
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == [
        "everything", "ray map alone", "ray map alone, nerf", "another seed",
    ]  # fmt: skip
    report = json.loads((tmp_path / "out" / "denoiser.json").read_text())
    assert all(row["seconds per view"] > 0 and row["steps"] >= 1 for row in report.values())
    assert report["ray map alone, nerf"]["parameters"] < report["ray map alone"]["parameters"]
    assert (tmp_path / "out/denoiser/renderings/plan.json").exists(), "made once, for both"
    assert (tmp_path / "out/denoiser/renderings_1/plan.json").exists(), "another seed draws other sets"
    assert not list((tmp_path / "out").glob("denoiser/*/run/renderings"))
    for log in (tmp_path / "out").rglob("*.log"):
        log.unlink()
    ablations.main(command)  # nothing is done again
    assert not list((tmp_path / "out").rglob("*.log"))
    assert table.strip() in capsys.readouterr().out
