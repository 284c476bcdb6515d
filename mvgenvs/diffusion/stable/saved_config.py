"""Configurations of diffusers models in the form in which a model that contains them saves them."""

from collections.abc import Mapping
from typing import Any


def public_entries(config: Mapping[str, Any]) -> dict[str, Any]:
    """A diffusers configuration without its private entries: versions, and the path that it was loaded from."""
    return {name: value for name, value in config.items() if not name.startswith("_")}
