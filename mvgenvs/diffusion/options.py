"""How a sequence is sampled: every option in one place, with its default, its range and its text.

The flags of `infer_multiview.py` and of `eval.run`, the keywords of `MultiViewPipeline` and the settings in `run.json`
are derived from them: see `mvgenvs.diffusion.flags`. Imports nothing heavy, so that `--help` answers at once.
"""

import dataclasses
import math
import numbers
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mvgenvs.errors import UserError

PLANS = ("joint", "sliding", "autoregressive", "keyframes", "stochastic", "unconditional")
SAMPLERS = ("euler", "heun", "dpmpp-2m")
RENOISE = ("fresh", "fixed")
STARTS = ("noise", "render")
CLEAN_SIGMA = 0.02  # the noise level of a "clean" anchor, in training and in sampling
ANCHOR_LEVELS = {"matched": math.inf, "clean": CLEAN_SIGMA}  # the highest noise level of an anchor
DEFAULT_STEPS, DEFAULT_GUIDANCE = 20, 1.5  # of a checkpoint that does not set its own


@dataclass(frozen=True)
class Flag:
    """How an option is given on a command line, and which values it takes."""

    group: str  # of the flags in --help; empty: the option has no flag
    name: str  # without its dashes; empty: that of the field
    choices: tuple[str, ...]
    names_only: bool  # whether Python, too, takes nothing but the choices
    low: int | None  # the least number
    high: int  # the greatest


def option(
    default: Any,
    group: str = "",
    name: str = "",
    choices: Sequence[str] = (),
    names_only: bool = True,
    low: int | None = None,
    high: int = 10**9,
) -> Any:
    """A field of `SamplingOptions`; the arguments are those of `Flag`."""
    return field(default=default, metadata={"flag": Flag(group, name, tuple(choices), names_only, low, high)})


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How the views of a sequence are sampled. None leaves the choice to the checkpoint or to the plan.

    Raises `UserError` for values that are out of range or do not go together.
    """

    plan: str | Sequence[Any] = option("sliding", "sequence", choices=PLANS, names_only=False)
    """which views are generated together"""
    block: int | None = option(None, "sequence", low=1, high=4096)
    """views per block (default: 4, autoregressive and stochastic 1, unconditional 2)"""
    anchors: int | None = option(None, "sequence", low=0, high=4096)
    """finished views shown to each block (default: the plan's)"""
    close_loop: bool = option(False, "sequence")
    """generate the first views of an orbit again, to match the last ones"""
    resample: float | None = option(None, "sequence", low=0, high=10_000)  # and above the checkpoint's lowest
    """noise level from which all views are made again, between neighbours on both sides (default: they are not)"""
    renoise: str = option("fresh", "sequence", choices=RENOISE)
    """anchors' noise: new per step, or the same"""
    anchor_level: str | float | tuple[str | float, ...] = option(
        "matched", "sequence", choices=tuple(ANCHOR_LEVELS), names_only=False
    )
    """noise of anchors: as much as the new views, or almost none"""
    sampler: str = option("euler", "sampling", choices=SAMPLERS)
    """solver of the diffusion ODE"""
    num_inference_steps: int | None = option(None, "sampling", "steps", low=1, high=10_000)
    """sampler steps (default: the checkpoint's own, or else 20)"""
    churn: float = option(0.0, "sampling", low=0, high=10_000)
    """stochasticity, EDM's S_churn"""
    start: str | None = option(None, "sampling", choices=STARTS)
    """start from noise alone, or from the noised rendering (default: the checkpoint's)"""
    sigma_max: float | None = option(None, "sampling", low=0, high=10_000)  # and above the checkpoint's lowest
    """noise level to start from (default: the checkpoint's)"""
    temperature: float | None = option(None, "sampling", low=0, high=10)
    """deviation of the noise to start from, as a share of what its level says (default: the checkpoint's, or else 1)"""
    rho: float | None = option(None, low=0, high=1000)
    """spacing of the noise levels, EDM's rho (default: the checkpoint's)"""
    guidance_scale: float | None = option(None, "sampling", "guidance", low=0, high=1000)
    """guidance weight, 1 is none (default: the checkpoint's own, or else 1.5)"""
    joint: bool = option(True)
    """denoise the views of a block together; False, a baseline: each alone, with only the known views as anchors"""
    unconditional: bool = option(False, "input")
    """no input: views of an object that the model invents"""

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
        """The options of these names. Raises `UserError` for an unknown name, with the nearest one."""
        names = [each.name for each in dataclasses.fields(cls)]
        for name in keywords:
            if name not in names:
                import difflib  # here, since mistakes are rare

                near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
                raise UserError(f"there is no sampling option '{name}': did you mean '{near[0]}'?")
        return cls(**keywords)

    @property
    def num_steps(self) -> int:
        """Sampler steps, or the usual number if none is chosen."""
        return DEFAULT_STEPS if self.num_inference_steps is None else self.num_inference_steps

    @property
    def guidance(self) -> float:
        """Guidance weight, or the usual one if none is chosen."""
        return DEFAULT_GUIDANCE if self.guidance_scale is None else self.guidance_scale

    @property
    def start_temperature(self) -> float:
        """The temperature, or 1 if none is chosen."""
        return 1.0 if self.temperature is None else self.temperature

    def resolved(self, checkpoint: Mapping[str, Any], levels: Mapping[str, Any], has_known: bool) -> "SamplingOptions":
        """These options, with the checkpoint's defaults in place of None.

        `checkpoint` holds the defaults of a pipeline, `levels` the configuration of its scheduler. Without known views
        there is no rendering to start from.
        """
        start, sigma_max, default = self.start, self.sigma_max, checkpoint["default_render_sigma"]
        temperature = 1.0  # that of the checkpoint suits its own start
        if start is None:
            start = "noise" if default is None or sigma_max is not None or not has_known else "render"
            if start == "render":
                sigma_max, temperature = default, checkpoint["default_temperature"]
        steps, guidance = self.num_inference_steps, self.guidance_scale
        return dataclasses.replace(
            self,
            num_inference_steps=checkpoint["default_steps"] if steps is None else steps,
            guidance_scale=checkpoint["default_guidance"] if guidance is None else guidance,
            start=start,
            sigma_max=levels["sigma_max"] if sigma_max is None else sigma_max,
            temperature=temperature if self.temperature is None else self.temperature,
            rho=levels["rho"] if self.rho is None else self.rho,
        )

    def highest_levels(self, num_anchors: int) -> list[float]:
        """The highest noise level of each anchor. Raises `UserError` unless there is one per anchor."""
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
        """The options by the names of their flags, or else of their fields, as in `run.json`."""
        return {flag_name(each): getattr(self, each.name) for each in dataclasses.fields(self)}


def _check(name: str, value: Any, flag: Flag) -> None:
    """Raises `UserError` unless the value is one of the choices, or in range."""
    if value is None:
        return
    if flag.choices and value not in flag.choices and (flag.names_only or isinstance(value, str)):
        raise UserError(unknown_choice(name, value, flag.choices))
    if flag.low is not None:
        whole = kind_of(name) is int
        fits = isinstance(value, numbers.Integral if whole else numbers.Real) and not isinstance(value, bool)
        if not fits or not flag.low <= value <= flag.high:
            noun = "a whole number" if whole else "a number"
            span = f"at most {flag.high}" if fits and flag.high < value < math.inf else f"at least {flag.low}"
            raise UserError(f"{name} must be {noun} of {span}, but is {value!r:.80}")


def kind_of(name: str) -> Any:
    """The type of an option; the first one if it may have several."""
    hint = SamplingOptions.__annotations__[name]
    return (typing.get_args(hint) or (hint,))[0]


def unknown_choice(name: str, value: Any, choices: Sequence[str]) -> str:
    return f"there is no {name} '{value}': choose one of {', '.join(choices)}"


def flag_name(each: "dataclasses.Field[Any]") -> str:
    return each.metadata["flag"].name or each.name
