"""Recipes: mistakes are told in one sentence before anything is written, and what was stopped goes on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_training import DATA, TINY, assert_equal, weights

import train_multiview
from mvgenvs.errors import UserError
from mvgenvs.nerf import model
from mvgenvs.parts import checkpoints, load_parts
from mvgenvs.pipeline import MultiViewPipeline
from mvgenvs.training import recipe as module
from mvgenvs.training import schedule
from mvgenvs.training.recipe import cook, merged, read_recipe


def nested(flat: dict[str, str]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, text in flat.items():
        section, name = key.split(".")
        out.setdefault(section, {})[name] = yaml.safe_load(text)
    return out


def tiny_recipe() -> dict[str, Any]:
    base = nested({k: v for k, v in TINY.items() if k.split(".")[0] != "loss" and k != "data.root"})
    return {
        "minutes": 0.001,  # over when they are known: the warm-up's steps, and one
        "base": merged(base, {"optim": {"batch": 2, "warmup": 3}, "run": {"checkpoint_every": 100, "log_every": 1}}),
        "stages": {
            "field": {"share": 1, "loss": {"rgb": 1.0, "rays": 8}, "run": {"train": ["nerf"]}},
            "denoiser": {
                "share": 3,
                "denoiser": {"fit_prior": False, "show_prior": True},
                "loss": {"denoise": 1.0, "noise_draws": 2},
                "run": {"train": ["denoiser"], "init_parts": ["codec", "nerf"]},
            },
        },
        "export": {"steps": 3, "guidance": 1.25},
    }


def write(folder: Path, content: Any) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "CELL", 0.1)


# Mistakes


def without_stages(content: dict[str, Any]) -> None:
    del content["stages"]


MISTAKES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "unknown key": (lambda c: c.update(minuets=3), "and nothing else"),
    "no stages": (without_stages, "and nothing else"),
    "no mapping of stages": (lambda c: c.update(stages=["field"]), "'stages'"),
    "empty stages": (lambda c: c.update(stages={}), "has no stages"),
    "no share": (lambda c: c["stages"]["field"].pop("share"), "stage 'field'"),
    "share of 0": (lambda c: c["stages"]["field"].update(share=0), "stage 'field'"),
    "share below 0": (lambda c: c["stages"]["denoiser"].update(share=-1), "stage 'denoiser'"),
    "share of words": (lambda c: c["stages"]["field"].update(share="half"), "stage 'field'"),
    "stage of nothing": (lambda c: c["stages"].update(field=None), "stage 'field'"),
    "minutes of 0": (lambda c: c.update(minutes=0), "minutes above 0"),
    "minutes below 0": (lambda c: c.update(minutes=-2), "minutes above 0"),
    "minutes of words": (lambda c: c.update(minutes="some"), "minutes above 0"),
    "no number of minutes": (lambda c: c.update(minutes=float("nan")), "minutes above 0"),
    "no minutes": (lambda c: c.pop("minutes"), "minutes above 0"),
    "mistaken setting": (lambda c: c["stages"]["field"].update(optin={"lr": 1.0}), "stages.field.optin"),
    "mistaken field": (lambda c: c["stages"]["field"]["loss"].update(rbg=1.0), "did you mean"),
    "mistaken type": (lambda c: c["stages"]["field"].update(optim={"batch": "many"}), "optim.batch"),
    "mistaken part": (lambda c: c["stages"]["denoiser"]["run"].update(train=["nerv"]), "no part 'nerv'"),
    "mistaken base": (lambda c: c["base"].update(nefr={}), "nefr"),
    "base of a word": (lambda c: c.update(base="tiny"), "'base'"),
    "base of nothing": (lambda c: c.update(base=None), "'base'"),
    "export of a word": (lambda c: c.update(export="fast"), "'export'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_sentence_and_write_nothing(tmp_path: Path, name: str) -> None:
    change, says = MISTAKES[name]
    content = tiny_recipe()
    change(content)
    with pytest.raises(UserError, match=says) as caught:
        read_recipe(write(tmp_path, content), tmp_path / "out", [str(DATA)], None)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize("text", ["stages: [", "a: b: c", "just words", "", "- 1", "\t{"])
def test_files_that_are_no_recipe_are_one_sentence(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match=r"recipe\.yaml"):
        read_recipe(write(tmp_path, text), tmp_path / "out", [str(DATA)], None)
    with pytest.raises(UserError, match="cannot read"):
        read_recipe(tmp_path / "none.yaml", tmp_path / "out", [str(DATA)], None)
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize("minutes", [0.0, -1.0, float("nan"), float("inf")])
def test_minutes_of_the_command_must_be_above_zero(tmp_path: Path, minutes: float) -> None:
    with pytest.raises(UserError, match="minutes above 0"):
        read_recipe(write(tmp_path, tiny_recipe()), tmp_path / "out", [str(DATA)], minutes)
    assert not list(tmp_path.glob("out/*"))


def test_an_output_of_others_is_left_alone(tmp_path: Path) -> None:
    path, out = write(tmp_path, tiny_recipe()), tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match="no recipe's"):
        read_recipe(path, out, [str(DATA)], None)
    assert [p.name for p in out.iterdir()] == ["thesis.tex"]
    other = tmp_path / "other"
    read_recipe(path, other, [str(DATA)], None)
    before = (other / "recipe.yaml").read_text()
    read_recipe(path, other, [str(DATA)], None)  # the same again
    for data, minutes in (([str(DATA), "more=2"], None), ([str(DATA)], 5.0)):
        with pytest.raises(UserError, match="another recipe"):
            read_recipe(path, other, data, minutes)
    assert (other / "recipe.yaml").read_text() == before


# What a recipe means


def test_stages_share_the_minutes_and_hand_on_their_weights(tmp_path: Path) -> None:
    recipe = read_recipe(write(tmp_path, tiny_recipe()), tmp_path / "out", ["a", "b=2"], 8.0)
    field, denoiser = (stage.config for stage in recipe.stages)
    assert (field.run.minutes, denoiser.run.minutes) == (2.0, 6.0)
    assert (field.run.init_from, denoiser.run.init_from) == ("", str(tmp_path / "out/field"))
    assert (field.run.output, denoiser.run.output) == (str(tmp_path / "out/field"), str(tmp_path / "out/denoiser"))
    assert field.data.sources == denoiser.data.sources == ("a", "b=2")
    assert (field.loss.rgb, denoiser.loss.rgb, denoiser.run.log_every) == (1.0, 0.0, 1)


def test_the_recipes_that_come_with_us_are_sound(tmp_path: Path) -> None:
    recipes = sorted((Path(__file__).parents[1] / "configs/recipes").glob("*.yaml"))
    assert recipes
    for path in recipes:
        assert read_recipe(path, tmp_path / path.stem, [str(DATA)], None).stages


# Cooking


@pytest.fixture(scope="module")
def cooked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "CELL", 0.1)
        arguments = ["recipe", str(write(folder, tiny_recipe())), "--data", str(DATA), "--output", str(folder / "out")]
        assert train_multiview.main(arguments) == 0
    return folder / "out"


def test_a_recipe_makes_a_model(cooked: Path) -> None:
    pipeline = MultiViewPipeline.from_pretrained(cooked / "pipeline")
    assert (pipeline.config.default_steps, pipeline.config.default_guidance) == (3, 1.25)
    modules = load_parts(cooked / "pipeline").modules()
    ours = {f"{name}.{key}": value for name, part in modules.items() for key, value in part.state_dict().items()}
    assert_equal(ours, weights(cooked / "denoiser"), tolerance=2e-3)  # in half precision
    field, last = weights(cooked / "field"), weights(cooked / "denoiser")
    for name in field:
        if not name.startswith("denoiser"):
            assert field[name].equal(last[name]), name
    report = json.loads((cooked / "recipe.json").read_text())
    assert [stage["stage"] for stage in report["stages"]] == ["field", "denoiser"]
    for stage in report["stages"]:
        plan = json.loads((cooked / stage["stage"] / schedule.PLAN).read_text())
        assert stage["steps"] == plan["steps"] >= 4
        assert checkpoints(cooked / stage["stage"])[-1].name == f"checkpoint-{plan['steps']:06d}"
        assert stage["sets_per_second"] == pytest.approx(2 / stage["seconds_per_step"])
    draws = [stage["set_draws_per_second"] / stage["sets_per_second"] for stage in report["stages"]]
    assert draws == pytest.approx([0, 2])
    assert [set(stage["losses"]) for stage in report["stages"]] == [{"rgb"}, {"denoise"}]


def test_cooked_again_nothing_is_trained(cooked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "train", lambda config, resume: pytest.fail("trained again"))
    recipe = read_recipe(write(tmp_path, tiny_recipe()), cooked, [str(DATA)], None)
    before = (cooked / "recipe.json").read_text()
    assert cook(recipe) == 0
    assert (cooked / "recipe.json").read_text() == before


def test_a_recipe_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped within the second stage, it does not train the first again, and ends with a model."""

    def stopped(config: Any, resume: bool) -> int:
        asked.append((Path(config.run.output).name, resume))
        return 1 if stops and asked[-1][0] == "denoiser" else original(config, resume)

    original, asked, stops = module.train, [], True
    monkeypatch.setattr(module, "train", stopped)
    recipe = read_recipe(write(tmp_path, tiny_recipe()), tmp_path / "out", [str(DATA)], None)
    assert cook(recipe) == 1
    assert asked == [("field", True), ("denoiser", True)]
    assert not (tmp_path / "out/pipeline").exists() and not (tmp_path / "out/recipe.json").exists()
    stops = False
    assert cook(read_recipe(write(tmp_path, tiny_recipe()), tmp_path / "out", [str(DATA)], None)) == 0
    assert asked[2:] == [("denoiser", True)]
    assert (tmp_path / "out/pipeline/model_index.json").exists()
