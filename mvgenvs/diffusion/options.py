"""How a sequence is sampled: every option in one place, with its default, its range and its text.

The flags of `infer_multiview.py` and of `eval.run`, the keywords of `MultiViewPipeline` and the settings in `run.json`
derive from here. Imports nothing heavy: `--help` answers at once.
"""

import argparse
import dataclasses
import functools
import inspect
import math
import numbers
import textwrap
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from mvgenvs.errors import UserError, number
from mvgenvs.field_texts import field_texts

Method = TypeVar("Method", bound=Callable[..., Any])

PLANS = ("joint", "sliding", "autoregressive", "keyframes", "unconditional")
SAMPLERS = ("euler", "heun", "dpmpp-2m")
RENOISE = ("fresh", "fixed")
STARTS = ("noise", "render")
CLEAN_SIGMA = 0.02  # the noise level of a "clean" anchor, in training and in sampling
ANCHOR_LEVELS = {"matched": math.inf, "clean": CLEAN_SIGMA}  # the highest noise level that an anchor is brought to
DEFAULT_STEPS, DEFAULT_GUIDANCE = 20, 1.5  # of a checkpoint that does not say


@dataclass(frozen=True)
class Flag:
    """How an option is given on a command line, and what values it takes."""

    group: str  # of the flags in --help; empty: the option has no flag
    name: str  # without its dashes; empty: that of the field
    choices: tuple[str, ...]
    names_only: bool  # whether Python, too, takes nothing but the choices
    low: int | None  # the least number


def option(
    default: Any,
    group: str = "",
    name: str = "",
    choices: Sequence[str] = (),
    names_only: bool = True,
    low: int | None = None,
) -> Any:
    """A field of `SamplingOptions`; the arguments are those of `Flag`."""
    return field(default=default, metadata={"flag": Flag(group, name, tuple(choices), names_only, low)})


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How the views of a sequence are sampled. None leaves the choice to the checkpoint, or to the plan.

    Raises `UserError` for values that are out of range or do not go together.
    """

    plan: str | Sequence[Any] = option("sliding", "sequence", choices=PLANS, names_only=False)
    """which views are made together"""
    block: int | None = option(None, "sequence", low=1)
    """views made at a time (default: 4, autoregressive 1, unconditional 2)"""
    anchors: int | None = option(None, "sequence", low=0)
    """finished views shown to each block (default: the plan's)"""
    close_loop: bool = option(False, "sequence")
    """make the first views of an orbit again, to meet the last ones"""
    renoise: str = option("fresh", "sequence", choices=RENOISE)
    """anchors' noise: new per step, or the same"""
    anchor_level: str | float | tuple[str | float, ...] = option(
        "matched", "sequence", choices=tuple(ANCHOR_LEVELS), names_only=False
    )
    """anchors as noisy as the new views, or clean"""
    sampler: str = option("euler", "sampling", choices=SAMPLERS)
    """solver of the diffusion ODE"""
    num_inference_steps: int | None = option(None, "sampling", "steps", low=1)
    """sampler steps (default: what suits the checkpoint, usually 20)"""
    churn: float = option(0.0, "sampling", low=0)
    """stochasticity, EDM's S_churn"""
    start: str | None = option(None, "sampling", choices=STARTS)
    """noise alone, or on the NeRF's views (default: what suits the checkpoint)"""
    sigma_max: float | None = option(None, "sampling")  # its range depends on the checkpoint's levels
    """noise level to start from (default: the checkpoint's)"""
    rho: float | None = option(None, low=0)
    """how the noise levels are spaced, EDM's rho (default: the checkpoint's)"""
    guidance_scale: float | None = option(None, "sampling", "guidance", low=0)
    """guidance weight, 1 is none (default: what suits the checkpoint, usually 1.5)"""
    joint: bool = option(True)
    """denoise the views together; else each alone and from the known views alone, a baseline"""
    unconditional: bool = option(False, "input")
    """no input: views of an object that the model makes up"""

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            _check(each.name, getattr(self, each.name), each.metadata["flag"])
        for level in self.anchor_level if isinstance(self.anchor_level, tuple) else (self.anchor_level,):
            highest = ANCHOR_LEVELS.get(level) if isinstance(level, str) else level
            if highest is None or not highest > 0:
                raise UserError(f"there is no anchor_level '{level}': choose matched, clean or a level above 0")
        if self.rho == 0:
            raise UserError("rho must be above 0")
        if self.sampler == "dpmpp-2m" and self.churn:
            raise UserError("dpmpp-2m is a multistep sampler and takes no churn: use euler or heun")

    @classmethod
    def of(cls, **keywords: Any) -> "SamplingOptions":
        """The options with these names. Raises `UserError` for an unknown one, with the nearest name."""
        names = [each.name for each in dataclasses.fields(cls)]
        for name in keywords:
            if name not in names:
                import difflib  # as mistakes are rare

                near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
                raise UserError(f"there is no sampling option '{name}': did you mean '{near[0]}'?")
        return cls(**keywords)

    @property
    def num_steps(self) -> int:
        """Sampler steps; the usual number where nobody has chosen."""
        return DEFAULT_STEPS if self.num_inference_steps is None else self.num_inference_steps

    @property
    def guidance(self) -> float:
        """Guidance weight; the usual one where nobody has chosen."""
        return DEFAULT_GUIDANCE if self.guidance_scale is None else self.guidance_scale

    def highest_levels(self, num_anchors: int) -> list[float]:
        """The noise level above which each anchor is not brought. Raises `UserError` where there are not as many."""
        levels = self.anchor_level
        if not isinstance(levels, tuple):
            levels = (levels,) * num_anchors
        if len(levels) != num_anchors:
            raise UserError(f"anchor_level names {len(levels)} levels for {num_anchors} anchors: give one for each")
        return [ANCHOR_LEVELS[level] if isinstance(level, str) else level for level in levels]

    def keywords(self) -> dict[str, Any]:
        """As keywords of `MultiViewPipeline.__call__` and `stream`."""
        return {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}

    def record(self) -> dict[str, Any]:
        """By the names of their flags, where they have one, as `run.json` has them."""
        return {_flag_name(each): getattr(self, each.name) for each in dataclasses.fields(self)}


def _check(name: str, value: Any, flag: Flag) -> None:
    """Raises `UserError` unless the value is one of the choices, or in range."""
    if value is None:
        return
    if flag.choices and value not in flag.choices and (flag.names_only or isinstance(value, str)):
        raise UserError(_unknown(name, value, flag.choices))
    if flag.low is not None:
        whole = _kind(name) is int
        fits = isinstance(value, numbers.Integral if whole else numbers.Real) and not isinstance(value, bool)
        if not fits or not flag.low <= value < math.inf:
            noun = "a whole number" if whole else "a number"
            raise UserError(f"{name} must be {noun} of at least {flag.low}, but is {value!r}")


@functools.cache
def _kind(name: str) -> Any:
    """The type of an option, the first one where it may have several."""
    hint = typing.get_type_hints(SamplingOptions)[name]
    return (typing.get_args(hint) or (hint,))[0]


def _choice(name: str, choices: Sequence[str]) -> Callable[[str], str]:
    """An argparse type: one of the choices."""

    def parse(text: str) -> str:
        if text not in choices:
            raise argparse.ArgumentTypeError(_unknown(name, text, choices))
        return text

    return parse


def _unknown(name: str, value: Any, choices: Sequence[str]) -> str:
    return f"there is no {name} '{value}': choose one of {', '.join(choices)}"


def _flag_name(each: "dataclasses.Field[Any]") -> str:
    return each.metadata["flag"].name or each.name


def add_flags(
    add: Callable[..., Any],
    group: str = "",
    names: Sequence[str] = (),
    texts: Mapping[str, str] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> None:
    """Adds the flags of a group, or of the options called `names`; `add` is `add_argument` of an argparse parser.

    `texts` and `defaults` stand in for those of some options.
    """
    written = field_texts(SamplingOptions) | dict(texts or {})
    for each in dataclasses.fields(SamplingOptions):
        flag: Flag = each.metadata["flag"]
        if not flag.group or not (flag.group == group or each.name in names):
            continue
        default = (defaults or {}).get(each.name, each.default)
        kind, text = _kind(each.name), written[each.name]
        how: dict[str, Any] = {"action": "store_true"}
        if flag.choices:
            how = {"type": _choice(each.name, flag.choices), "metavar": f"{{{','.join(flag.choices)}}}"}
        elif kind is not bool:
            how = {"type": number(kind, flag.low or 0), "metavar": "N" if kind is int else "X"}
        if kind is not bool:
            how["default"] = default
            text += "" if default is None else " (default: %(default)s)"
        add(f"--{_flag_name(each).replace('_', '-')}", dest=each.name, help=text, **how)


def take_flags(arguments: argparse.Namespace) -> SamplingOptions:
    """The options in what a parser with `add_flags` has read, where they are no longer afterwards."""
    names = [each.name for each in dataclasses.fields(SamplingOptions) if each.name in arguments]
    options = SamplingOptions(**{name: getattr(arguments, name) for name in names})
    for name in names:
        delattr(arguments, name)
    return options


def takes_sampling_options(method: Method) -> Method:
    """Names the options that a method takes as `**options` in its signature and docstring, as `help()` shows them."""
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
