"""What other distributions add, by entry point: looked up, not scanned for."""

from __future__ import annotations

from collections.abc import Container
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from veridical.strategies.errors import ConfigError


def offered(group: str) -> dict[str, list[EntryPoint]]:
    """The entry points of a group, by name."""
    found: dict[str, list[EntryPoint]] = {}
    for point in sorted(entry_points(group=group), key=origin):
        found.setdefault(point.name, []).append(point)
    return found


def clashing(group: str, what: str, ours: Container[str]) -> dict[str, str]:
    """What is wrong, by name, where an entry point takes one of our names or two take the same."""
    found: dict[str, str] = {}
    for name, points in offered(group).items():
        if name in ours or len(points) > 1:
            origins = " and ".join(map(origin, points))
            found[name] = f"{origins} offers a {what} {name!r}; that name is taken."
    return found


def imported(path: str) -> Any:
    """What an import string of ours, MODULE:NAME, stands for."""
    module, _, attribute = path.partition(":")
    return getattr(import_module(module), attribute)


def loaded(point: EntryPoint, what: str) -> Any:
    """What an entry point stands for.

    Raises:
        ConfigError: it does not load; names the distribution.
    """
    try:
        return point.load()
    except (Exception, SystemExit) as error:  # whatever it does, it must not end the server
        raise ConfigError(f"{origin(point)}: {what} {point.name!r} does not load ({error!r}).") from error


def origin(point: EntryPoint) -> str:
    """Who offers it."""
    return f"Distribution {point.dist.name!r}" if point.dist else f"Entry point {point.value!r}"
