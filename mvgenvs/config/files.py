"""From YAML and flags to settings, with every key checked, and back."""

import dataclasses
import difflib
import types
import typing
from pathlib import Path
from typing import Any, TypeVar, Union

import yaml

from mvgenvs.config.training import TrainConfig
from mvgenvs.errors import UserError
from mvgenvs.field_texts import field_texts

T = TypeVar("T")


LONGEST = 1_000_000  # bytes of a configuration
PACKAGE = Path(__file__).parents[1]
SHIPPED = next((path for path in (PACKAGE / "configs", PACKAGE.parent / "configs") if path.is_dir()), PACKAGE)
"""Where the configurations are that come with mvgenvs: in an installed package, or in a checkout."""


class ConfigLoader(yaml.SafeLoader):
    """YAML in which only true and false are booleans, as in version 1.2: "no" is a string, and a kind of precision.

    Aliases are refused: a few lines of them stand for more than any memory holds.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not supported")
        return super().compose_node(parent, index)


ConfigLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool" or first in "tTfF"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def load_config(path: Path | None, overrides: dict[str, str] | None = None) -> TrainConfig:
    """Defaults, then the YAML file, then overrides such as {"optim.lr": "1e-4"}.

    Raises `UserError` with one sentence for a missing or malformed file, an unknown key (naming the nearest one), or
    a value of the wrong type.
    """
    values: Any = {} if path is None else read_yaml(Path(path), "configuration") or {}
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold sections such as 'optim:' with fields below them")
    for key, text in (overrides or {}).items():
        section, _, name = key.partition(".")
        if not isinstance(values.setdefault(section, {}), dict):
            raise UserError(f"section '{section}' of {path} must hold fields")
        values[section][name] = text if _takes_text(section, name) else _parsed(text, f"--{key}")
    return build(TrainConfig, values)


def read_yaml(path: Path, what: str) -> Any:
    """What a YAML file holds, which may also be one of ours: configs/field.yaml is found from any folder.

    Raises `UserError` if it cannot be read, calling it the `what` at `path`.
    """
    ours = path.parts[:1] == ("configs",) and not path.exists()
    found = SHIPPED.joinpath(*path.parts[1:]) if ours else path
    try:
        if found.stat().st_size > LONGEST:
            raise UserError(f"the {what} {path} is longer than {LONGEST} bytes: is it the right file?")
        text = found.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the {what} {path}") from error
    return _parsed(text, str(path))


def _parsed(text: str, where: str) -> Any:
    try:
        return yaml.load(text, ConfigLoader)
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as error:  # of impossible dates, endless numbers
        raise UserError(f"{where} is not valid YAML, or uses aliases") from error


def _takes_text(section: str, name: str) -> bool:
    """Whether a setting is text, so that a flag's value is taken as it stands."""
    hint = typing.get_type_hints(TrainConfig).get(section)
    return hint is not None and typing.get_type_hints(hint).get(name) is str


def build(cls: type[T], values: Any, where: str = "") -> T:
    """A dataclass from nested dictionaries, checked key by key."""
    if not isinstance(values, dict):
        raise UserError(f"'{where}' must hold fields, not {values!r:.80}")
    hints = typing.get_type_hints(cls)
    arguments = {}
    for key, value in values.items():
        name = f"{where}.{key}" if where else str(key)
        if key not in hints:
            near = difflib.get_close_matches(str(key), hints, n=1, cutoff=0.0)
            raise UserError(f"there is no setting '{name:.80}': did you mean '{name.removesuffix(str(key))}{near[0]}'?")
        is_section = dataclasses.is_dataclass(hints[key])
        arguments[key] = build(hints[key], value, name) if is_section else _convert(hints[key], value, name)
    return cls(**arguments)


def _convert(hint: Any, value: Any, name: str) -> Any:
    origin = typing.get_origin(hint)
    if origin is tuple and isinstance(value, list | tuple):
        inner = typing.get_args(hint)[0]
        return tuple(_convert(inner, item, name) for item in value)
    if origin in (Union, types.UnionType):
        hint = next(a for a in typing.get_args(hint) if a is not type(None))
        return None if value is None else _convert(hint, value, name)
    if hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)  # YAML 1.1 reads 1e-4 as a string
        except (ValueError, OverflowError):
            pass
    elif hint is str and value is None:
        return ""
    elif isinstance(hint, type) and type(value) is hint:
        return value
    expected = getattr(hint, "__name__", str(hint)) if origin is None else str(hint)
    raise UserError(f"setting '{name}' must be {expected}, not {value!r:.80}")


def to_dict(config: Any) -> dict[str, Any]:
    """Plain nested dictionaries, for YAML and JSON."""
    return {
        key: to_dict(value) if isinstance(value, dict) else list(value) if isinstance(value, tuple) else value
        for key, value in (config if isinstance(config, dict) else dataclasses.asdict(config)).items()
    }


def fields_help(cls: type) -> dict[str, tuple[str, Any]]:
    """{"section.field": (help string under the field, default)} of nested dataclasses, for `--help`."""
    out: dict[str, tuple[str, Any]] = {}
    for section in dataclasses.fields(cls):
        section_cls = typing.get_type_hints(cls)[section.name]
        texts = field_texts(section_cls)
        for item in dataclasses.fields(section_cls):
            out[f"{section.name}.{item.name}"] = (texts[item.name], item.default)
    return out
