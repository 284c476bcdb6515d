"""Every setting of a configuration and every number of a command line has its range, and is held to it."""

import argparse
import dataclasses
import math
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import inputs

import train_multiview
from eval import ablations, bench, compare, readme, run, score, study, throughput
from mvgenvs.app.__main__ import main as app
from mvgenvs.cli import OneSentenceParser
from mvgenvs.config import TrainConfig, load_config
from mvgenvs.config.files import build
from mvgenvs.config.ranges import Range
from mvgenvs.data import compact, pack, render, shards
from mvgenvs.data.opencars import __main__ as opencars
from mvgenvs.diffusion.options import SamplingOptions
from mvgenvs.errors import UserError
from mvgenvs.infer_options import parse_arguments
from mvgenvs.pipeline import MultiViewPipeline

ROOT = Path(__file__).parent.parent
WRONG: tuple[Any, ...] = (None, "", "many", True, [], {}, [[]], ["x"], {"a": 1}, b"x", "1" * 5000, 1.5, [1.5, "x"])
NUMBERS = (0, -1, math.nan, math.inf, -math.inf, 1e30, -1e30, 10**30, 1e-30, 0.5, 1, 2)
TEXTS = ("", " ", "x", "nan", "inf", "-inf", "1e30", "-1e30", "1e999", "9" * 5000, "0x10", "٣", "²", "1,5", "--", "\0")


def fields() -> Iterator[tuple[str, Any, "dataclasses.Field[Any]"]]:
    """Name, type and field of every setting."""
    for section in dataclasses.fields(TrainConfig):
        cls: Any = typing.get_type_hints(TrainConfig)[section.name]
        hints = typing.get_type_hints(cls)
        for each in dataclasses.fields(cls):
            yield f"{section.name}.{each.name}", hints[each.name], each


def kind_of(hint: Any) -> type:
    return typing.get_args(hint)[0] if typing.get_origin(hint) is tuple else hint


def test_every_number_declares_its_range_and_defaults_are_within() -> None:
    for name, hint, each in fields():
        if kind_of(hint) in (int, float):
            span = each.metadata.get("range")
            assert isinstance(span, Range), name
            items = each.default if isinstance(each.default, tuple) else (each.default,)
            assert all(span.has(item) for item in items), name
            assert math.isfinite(span.low) and math.isfinite(span.high), name


@pytest.mark.parametrize(("name", "hint", "each"), list(fields()), ids=lambda x: x if isinstance(x, str) else "")
def test_settings_are_taken_rightly_or_refused(name: str, hint: Any, each: "dataclasses.Field[Any]") -> None:
    section, key = name.split(".")
    count = len(each.default) if isinstance(each.default, tuple) else 0
    for value in (*WRONG, *NUMBERS, *([n] * count for n in NUMBERS), *([n] * 1000 for n in (1, 0.5))):
        try:
            config = build(TrainConfig, {section: {key: value}})
        except UserError as error:
            said = str(error)
            assert "\n" not in said and len(said) < 400
            assert key in said or section in said
            continue
        found = getattr(getattr(config, section), key)
        items = found if isinstance(found, tuple) else (found,)
        kind = kind_of(hint)
        assert all(type(item) is kind for item in items)
        if kind in (int, float):
            assert all(each.metadata["range"].low <= item <= each.metadata["range"].high for item in items)
        elif kind is str and (names := each.metadata.get("names")):
            assert found in names


@pytest.mark.parametrize("text", TEXTS)
def test_settings_given_as_flags_are_taken_rightly_or_refused(text: str) -> None:
    for name, hint, _ in fields():
        try:
            config = load_config(None, {name: text})
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 400
            continue
        section, key = name.split(".")
        if hint is str:
            assert getattr(getattr(config, section), key) == text, "text stands as it was given"


# Flags


class AskedError(Exception):
    """Holds the parser of a command."""


def parsers(monkeypatch: pytest.MonkeyPatch) -> Iterator[argparse.ArgumentParser]:
    """The parser of every command, and of those below it."""

    def caught(self: argparse.ArgumentParser, *_: object, **__: object) -> None:
        raise AskedError(self)

    with monkeypatch.context() as patch:
        for cls in (OneSentenceParser, argparse.ArgumentParser):
            patch.setattr(cls, "parse_args", caught)
        modules = (ablations, bench, compare, readme, run, score, study, throughput, compact, pack, render, shards)
        mains: list[Any] = [module.main for module in (*modules, opencars)] + [app, parse_arguments]
        mains += [
            lambda _, task=task: train_multiview.main([task]) for task in ("recipe", "export", "refine", "camera")
        ]
        for main in mains:
            with pytest.raises(AskedError) as asked:
                main([])
            todo = [asked.value.args[0]]
            while todo:
                parser = todo.pop()
                yield parser
                for action in parser._actions:
                    if isinstance(action, argparse._SubParsersAction):
                        todo += action.choices.values()


def test_every_flag_refuses_what_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = 0
    for parser in parsers(monkeypatch):
        for action in parser._actions:
            parse: Any = action.type
            if parse is None or parse is Path or "parse" not in getattr(parse, "__name__", ""):
                continue
            for text in (*TEXTS, *map(str, NUMBERS)):
                tried += 1
                try:
                    value = parse(text)
                except (argparse.ArgumentTypeError, ValueError) as error:
                    assert "\n" not in str(error)
                    continue
                if isinstance(value, int | float):
                    assert math.isfinite(value) and abs(value) < 1e20, (action.option_strings, text)
    assert tried > 1000


def test_no_flag_takes_any_number() -> None:
    """Python's own int and float know no range."""
    sources = [*ROOT.glob("*.py"), *(ROOT / "mvgenvs").rglob("*.py"), *(ROOT / "eval").rglob("*.py")]
    assert len(sources) > 200
    bare = [path.name for path in sources if re.search(r"add\w*\([^)]*\btype=(int|float)\b", path.read_text("utf-8"))]
    assert bare == []


# Keywords


@pytest.mark.parametrize("each", dataclasses.fields(SamplingOptions), ids=lambda each: each.name)
def test_sampling_options_are_taken_rightly_or_refused(each: "dataclasses.Field[Any]") -> None:
    flag = each.metadata["flag"]
    if flag.low is None:
        return
    for value in NUMBERS:
        try:
            options = SamplingOptions.of(**{each.name: value})
        except UserError as error:
            assert "\n" not in str(error)
            continue
        except Exception as error:
            assert type(error).__name__ == "TypeCheckError", "beartype's, which only tests have"
            continue
        found = getattr(options, each.name)
        assert flag.low <= found <= flag.high


def test_sampling_out_of_range_computes_nothing(pipeline: MultiViewPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(pipeline.nerf), "encode", lambda *_, **__: pytest.fail("it computes"))
    for name, value in (("churn", -1.0), ("guidance_scale", 1e30), ("num_inference_steps", 10**9), ("block", 10**6)):
        with pytest.raises(UserError, match=name):
            pipeline(**(inputs() | {name: value}))
