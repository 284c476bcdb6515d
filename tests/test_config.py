from dataclasses import replace
from pathlib import Path

import pytest
from tiny_sd import write_sd, write_zero123

from mvgenvs.config import TrainConfig, fields_help, load_config, to_dict
from mvgenvs.errors import UserError
from mvgenvs.parts import build_parts

ROOT = Path(__file__).parents[1] / "configs"
CONFIGS = sorted([*ROOT.glob("*.yaml"), *ROOT.glob("baselines/*.yaml")])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_loads_and_builds_its_model(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    if config.model.kind == "stable-diffusion":  # whose checkpoint would have to be downloaded
        write = write_zero123 if config.model.conditioner.startswith("zero123") else write_sd
        config = replace(config, model=replace(config.model, init_from=str(write(tmp_path))))
    parts = build_parts(config)
    side = parts.denoiser.config.latent_size
    assert parts.codec.latent_shape((config.data.size, config.data.size))[1:] == (side, side)


def test_there_are_configs() -> None:
    assert len(CONFIGS) >= 3


def test_file_holds_only_differences_and_overrides_win(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("optim:\n  lr: 1e-4\n  steps: 7\n")
    config = load_config(path, {"optim.steps": "9", "run.train": "[nerf]"})
    assert (config.optim.lr, config.optim.steps, config.run.train) == (1e-4, 9, ("nerf",))
    assert config.optim.batch == TrainConfig().optim.batch


def test_no_is_a_word_and_false_is_not(tmp_path: Path) -> None:
    flags = {"run.mixed_precision": "no", "data.mirror": "false"}
    path = tmp_path / "c.yaml"
    path.write_text("run:\n  mixed_precision: no\ndata:\n  mirror: False\n")
    for config in (load_config(None, flags), load_config(path)):
        assert (config.run.mixed_precision, config.data.mirror) == ("no", False)


def test_resolved_config_round_trips(tmp_path: Path) -> None:
    import yaml

    config = load_config(None, {"denoiser.block_out_channels": "[16, 32]"})
    path = tmp_path / "resolved.yaml"
    path.write_text(yaml.safe_dump(to_dict(config)))
    assert load_config(path) == config


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("optim:\n  stesp: 3\n", "did you mean 'optim.steps'"),
        ("optimm:\n  steps: 3\n", "did you mean 'optim'"),
        ("optim:\n  steps: many\n", "'optim.steps' must be int"),
        ("optim:\n  steps: true\n", "'optim.steps' must be int"),
        ("optim:\n  lr: fast\n", "'optim.lr' must be float"),
        ("run:\n  train: nerf\n", "'run.train' must be"),
        ("optim: 3\n", "'optim' must hold fields"),
        ("- 1\n", "must hold sections"),
        ("a: [\n", "not valid YAML"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=says.replace("(", r"\(")) as error:
        load_config(path)
    assert "\n" not in str(error.value)


def test_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read"):
        load_config(tmp_path / "none.yaml")


def test_every_field_has_help() -> None:
    help_texts = fields_help(TrainConfig)
    assert all(text for text, _ in help_texts.values())
    assert help_texts["optim.lr"][1] == TrainConfig().optim.lr
