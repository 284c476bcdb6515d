"""Mistakes in recipes are told in one sentence before anything is written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_training import DATA
from tiny_recipe import tiny_recipe, write

from mvgenvs.errors import UserError
from mvgenvs.nerf import model
from mvgenvs.training.recipe import claim, read_recipe


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "CELL", 0.1)


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
    "mistaken export": (lambda c: c["export"].update(step=3), "did you mean 'export.steps'"),
    "no steps": (lambda c: c["export"].update(steps=0), "above 0"),
    "steps of words": (lambda c: c["export"].update(steps="few"), "export.steps"),
    "guidance of no number": (lambda c: c["export"].update(guidance=float("nan")), "above 0"),
    "mistaken eval": (lambda c: c.update(eval={"object": 1}), "did you mean 'eval.objects'"),
    "eval of a word": (lambda c: c.update(eval="yes"), "'eval'"),
    "objects below 0": (lambda c: c.update(eval={"objects": -1}), "0 or more"),
    "refiner of the field": (lambda c: c["stages"]["field"]["loss"].update(refine=1.0), "a stage of its own"),
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
    with pytest.raises(UserError, match="do not belong to a recipe"):
        claim(read_recipe(path, out, [str(DATA)], None))
    assert [p.name for p in out.iterdir()] == ["thesis.tex"]
    with pytest.raises(UserError, match="is a file"):
        claim(read_recipe(path, out / "thesis.tex", [str(DATA)], None))
    (out / "thesis.tex").rename(
        out / ".recipe.yaml.123.unfinished"
    )  # what is left of a run that was killed as it began
    claim(read_recipe(path, out, [str(DATA)], None))
    other = tmp_path / "other"
    claim(read_recipe(path, other, [str(DATA)], None))
    before = (other / "recipe.yaml").read_text()
    claim(read_recipe(path, other, [str(DATA)], None))  # the same again
    for data, minutes in (([str(DATA), "more=2"], None), ([str(DATA)], 5.0)):
        with pytest.raises(UserError, match="another recipe"):
            claim(read_recipe(path, other, data, minutes))
    assert (other / "recipe.yaml").read_text() == before
