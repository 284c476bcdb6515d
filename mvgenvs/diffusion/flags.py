"""The sampling options as flags of command lines, and in the signatures of the methods that take them."""

import argparse
import dataclasses
import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from mvgenvs.cli import number
from mvgenvs.diffusion.options import Flag, SamplingOptions, flag_name, kind_of, unknown_choice
from mvgenvs.field_texts import field_texts

Method = TypeVar("Method", bound=Callable[..., Any])


def add_flags(
    add: Callable[..., Any],
    group: str = "",
    names: Sequence[str] = (),
    texts: Mapping[str, str] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> None:
    """Adds the flags of a group, or of the options in `names`; `add` is `add_argument` of an argparse parser.

    `texts` and `defaults` replace the help texts and defaults of some options.
    """
    written = field_texts(SamplingOptions) | dict(texts or {})
    for each in dataclasses.fields(SamplingOptions):
        flag: Flag = each.metadata["flag"]
        if not flag.group or not (flag.group == group or each.name in names):
            continue
        default = (defaults or {}).get(each.name, each.default)
        kind, text = kind_of(each.name), written[each.name]
        how: dict[str, Any] = {"action": "store_true"}
        if flag.choices:
            how = {"type": _choice(each.name, flag.choices), "metavar": f"{{{','.join(flag.choices)}}}"}
        elif kind is not bool:
            how = {"type": number(kind, flag.low or 0, flag.high), "metavar": "N" if kind is int else "X"}
        if kind is not bool:
            how["default"] = default
            text += "" if default is None else " (default: %(default)s)"
        add(f"--{flag_name(each).replace('_', '-')}", dest=each.name, help=text, **how)


def take_flags(arguments: argparse.Namespace) -> SamplingOptions:
    """Takes the sampling options out of what a parser with `add_flags` has read."""
    names = [each.name for each in dataclasses.fields(SamplingOptions) if each.name in arguments]
    options = SamplingOptions(**{name: getattr(arguments, name) for name in names})
    for name in names:
        delattr(arguments, name)
    return options


def takes_sampling_options(method: Method) -> Method:
    """Lists the options that a method takes as `**options` in its signature and docstring, for `help()`."""
    signature = inspect.signature(method)
    own = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
    further = [
        inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=each.type)
        for each in dataclasses.fields(SamplingOptions)
        if each.name not in signature.parameters
    ]
    method.__signature__ = signature.replace(parameters=[*own, *further])  # type: ignore[attr-defined]
    lines = [f"    {name}: {text}" for name, text in field_texts(SamplingOptions).items()]
    method.__doc__ = "\n".join([textwrap.dedent(f"        {method.__doc__}").rstrip(), "", "Sampling options:", *lines])
    return method


def _choice(name: str, choices: Sequence[str]) -> Callable[[str], str]:
    """An argparse type: one of the choices."""

    def parse(text: str) -> str:
        if text not in choices:
            raise argparse.ArgumentTypeError(unknown_choice(name, text, choices))
        return text

    return parse
