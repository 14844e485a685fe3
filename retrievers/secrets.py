"""Values that no text may show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret value; `name` says where it is from, such as an environment variable, and may be shown."""

    name: str
    value: str = field(repr=False)


def holds_secret(value: Any) -> bool:
    """Whether a secret stands anywhere in a tree of mappings and lists."""
    if isinstance(value, Mapping):
        return any(map(holds_secret, value.values()))
    if isinstance(value, list | tuple):
        return any(map(holds_secret, value))
    return isinstance(value, Secret)
