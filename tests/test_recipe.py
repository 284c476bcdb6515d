"""Recipes: mistakes are told in one sentence before anything is written, and what was stopped goes on."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_training import DATA, REPO, assert_equal, weights
from tiny import write_srn
from tiny_recipe import tiny_recipe, write

import train_multiview
from eval.metrics import suite
from eval.recipe_table import val_data
from mvgenvs.errors import UserError
from mvgenvs.nerf import model
from mvgenvs.parts import checkpoints, load_parts
from mvgenvs.pipeline import MultiViewPipeline
from mvgenvs.training import objective, schedule
from mvgenvs.training import recipe as module
from mvgenvs.training.log import read_log
from mvgenvs.training.recipe import Export, cook, read_recipe
from mvgenvs.training.refining import sampling_options


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "CELL", 0.1)


# What a recipe means


def test_stages_share_the_minutes_and_hand_on_their_weights(tmp_path: Path) -> None:
    recipe = read_recipe(write(tmp_path, tiny_recipe()), tmp_path / "out", ["a", "b=2"], 8.0)
    field, denoiser, refiner = (stage.config for stage in recipe.stages)
    assert (field.run.minutes, denoiser.run.minutes, refiner.run.minutes) == (1.0, 3.0, 4.0)
    assert (refiner.refine.steps, refiner.refine.guidance, refiner.refine.render_sigma) == (3, 1.25, 0.0), "as exported"
    assert (field.run.init_from, denoiser.run.init_from) == ("", str(tmp_path / "out/field"))
    assert (field.run.output, denoiser.run.output) == (str(tmp_path / "out/field"), str(tmp_path / "out/denoiser"))
    assert field.data.sources == denoiser.data.sources == ("a", "b=2")
    assert (field.loss.rgb, denoiser.loss.rgb, denoiser.run.log_every) == (1.0, 0.0, 1)


def test_the_recipes_that_come_with_us_are_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "check_perceptual", lambda config: None)  # VGG's weights are another matter
    recipes = sorted((Path(__file__).parents[1] / "configs/recipes").glob("*.yaml"))
    assert recipes
    for path in recipes:
        assert read_recipe(path, tmp_path / path.stem, [str(DATA)], None).stages


def test_the_refiner_learns_from_views_as_they_will_be_made(tmp_path: Path) -> None:
    content, sampling = tiny_recipe(), {"steps": 2, "guidance": 1.5, "render_sigma": 0.3, "temperature": 0.5}
    assert sorted(sampling) == sorted(field.name for field in dataclasses.fields(Export)), "every default"
    recipe = read_recipe(write(tmp_path, {**content, "export": sampling}), tmp_path / "out", ["a"], 8.0)
    assert sampling_options(recipe.stages[-1].config.refine) == {
        "num_inference_steps": 2, "guidance_scale": 1.5, "start": "render", "sigma_max": 0.3, "temperature": 0.5,
    }  # fmt: skip


def test_missing_weights_of_vgg_are_told_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise UserError("found no ImageNet weights")

    monkeypatch.setattr(objective, "find_trunk", missing)
    content = tiny_recipe()
    content["stages"]["refiner"]["loss"]["perceptual"] = 1.0
    with pytest.raises(UserError, match="no ImageNet weights"):
        read_recipe(write(tmp_path, content), tmp_path / "out", [str(DATA)], None)
    assert not list(tmp_path.glob("out/*"))


def test_missing_packages_of_the_table_are_told_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "skimage.metrics", None)  # no import of it succeeds
    monkeypatch.delitem(sys.modules, "eval.evaluation", raising=False)
    monkeypatch.delitem(sys.modules, "eval.metrics.suite", raising=False)
    monkeypatch.delitem(sys.modules, "eval.metrics.image", raising=False)
    path = write(tmp_path, {**tiny_recipe(), "eval": {"objects": 1}})
    with pytest.raises(UserError, match="skimage"):
        train_multiview.main(["recipe", str(path), "--data", str(DATA), "--output", str(tmp_path / "out")])
    assert not list(tmp_path.glob("out/*"))


def test_a_log_that_was_cut_off_is_read(tmp_path: Path) -> None:
    whole = '{"step": 1, "seconds": 2.0}\n'
    (tmp_path / "log.jsonl").write_text(whole + '{"step": 2, "sec' + whole + whole)
    assert read_log(tmp_path / "log.jsonl") == [{"step": 1, "seconds": 2.0}] * 2


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
    assert_equal(ours, weights(cooked / "refiner"), tolerance=2e-3)  # in half precision
    runs = {"field": "nerf", "denoiser": "denoiser", "refiner": "codec.refiner"}
    before = None
    for run, part in runs.items():
        after = weights(cooked / run)
        changed = {name for name in before or {} if not before[name].equal(after[name])}
        assert all(name.startswith(part) for name in changed) and (changed or before is None), run
        before = after
    report = json.loads((cooked / "recipe.json").read_text())
    assert [stage["stage"] for stage in report["stages"]] == ["field", "denoiser", "refiner"]
    for stage in report["stages"]:
        plan = json.loads((cooked / stage["stage"] / schedule.PLAN).read_text())
        assert stage["steps"] == plan["steps"] >= 4
        assert checkpoints(cooked / stage["stage"])[-1].name == f"checkpoint-{plan['steps']:06d}"
        assert stage["waiting"] + stage["rendering"] + stage["learning"] == pytest.approx(1)
        assert min(stage["waiting"], stage["learning"]) > 0 and stage["seconds"] > 0
        assert (stage["rendering"] > 0) == (stage["stage"] != "refiner")
        assert stage["sets_per_second"] == pytest.approx(2 / stage["seconds_per_step"])
    draws = [stage["set_draws_per_second"] / stage["sets_per_second"] for stage in report["stages"]]
    assert draws == pytest.approx([0, 2, 0])
    assert [set(stage["losses"]) for stage in report["stages"]] == [{"rgb"}, {"denoise"}, {"refine"}]


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
    assert asked[2:] == [("denoiser", True), ("refiner", True)]
    assert (tmp_path / "out/pipeline/model_index.json").exists()


# The table at its end


def test_a_recipe_ends_with_a_table_of_val(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(*_: object) -> None:
        raise UserError("no weights here")

    monkeypatch.setattr(suite, "find_trunk", missing)  # LPIPS would take longer than all the rest
    data = write_srn(tmp_path / "data", {"train": 2, "val": 2}, views=26)
    path = write(tmp_path, {**tiny_recipe(), "eval": {"objects": 1}})
    words = ["recipe", str(path), "--data", str(data), "--output", str(tmp_path / "out")]
    assert train_multiview.main(words) == 0
    assert "| joint |" in capsys.readouterr().out
    val = json.loads((tmp_path / "out/recipe.json").read_text())["val"]
    assert (val["objects"], val["images"]) == (1, 23)
    assert val["table"].keys() == {"nerf", "joint"}
    assert all(0 < row["psnr"] < 100 for row in val["table"].values())
    assert (tmp_path / "out/val/report.md").exists()
    (tmp_path / "out/recipe.json").unlink()
    assert train_multiview.main(words) == 0, "killed before its last line, it writes it again"
    assert json.loads((tmp_path / "out/recipe.json").read_text())["val"] == val


def test_data_without_a_val_split_make_no_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_srn(tmp_path / "data", {"train": 2}, views=6)
    assert val_data([f"{data}=2"]) is None
    assert "no val table" in capsys.readouterr().err
    other = write_srn(tmp_path / "other", {"train": 1, "val": 1}, views=6)
    assert val_data([str(data), f"{other}=0.5"]) == other


def test_two_processes_share_a_recipe(tmp_path: Path) -> None:
    """Training, and what is made before it; one of them claims the folder, exports and reports."""
    content = tiny_recipe()
    content["stages"]["denoiser"]["data"] = {"renderings": 3}
    path = write(tmp_path, content)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    words = ["train_multiview.py", "recipe", str(path), "--data", str(DATA), "--output", str(tmp_path / "out")]
    done = subprocess.run([*launcher, *words], cwd=REPO, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("training on 2 processes") == 3
    assert done.stdout.count("stage refiner") == done.stdout.count("wrote ") == 1
    assert len(list((tmp_path / "out/refiner/views").glob("*.png"))) == 4
    assert len(list((tmp_path / "out/denoiser/renderings").glob("*.safetensors"))) == 3
    assert len(json.loads((tmp_path / "out/recipe.json").read_text())["stages"]) == 3
    MultiViewPipeline.from_pretrained(tmp_path / "out/pipeline")
