"""What a model writes down of the diffusers models inside it."""

from collections.abc import Mapping
from typing import Any


def public_entries(config: Mapping[str, Any]) -> dict[str, Any]:
    """A diffusers configuration without its private entries: versions, and the path that it was loaded from."""
    return {name: value for name, value in config.items() if not name.startswith("_")}
