"""What other distributions add, by entry point: looked up, not scanned for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
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


@dataclass(frozen=True)
class Catalogue:
    """What can be asked for by name: ours in a table of import strings, others' by entry point."""

    group: str
    what: str
    ours: Mapping[str, str]

    @cached_property
    def plugins(self) -> dict[str, EntryPoint]:
        """Entry points of other distributions, by name; those that clash are left out."""
        return {name: points[0] for name, points in offered(self.group).items() if name not in self.clashes}

    @cached_property
    def clashes(self) -> dict[str, str]:
        """What is wrong, by name, where a plug-in takes one of our names or two take the same. Ours
        stays ours; of two plug-ins neither is trusted."""
        found: dict[str, str] = {}
        for name, points in offered(self.group).items():
            if name in self.ours or len(points) > 1:
                origins = " and ".join(map(origin, points))
                found[name] = f"{origins} offers a {self.what} {name!r}; that name is taken."
        return found

    @property
    def names(self) -> list[str]:
        """Everything that can be asked for, ours first."""
        return [*self.ours, *sorted(self.plugins)]

    def find(self, name: str) -> Any:
        """What is behind a name, imported now; None where there is none of that name.

        Raises:
            ConfigError: its distribution does not load, or clashes with another.
        """
        if name in self.ours:
            module, _, attribute = self.ours[name].partition(":")
            return getattr(import_module(module), attribute)
        if name in self.clashes:
            raise ConfigError(self.clashes[name])
        return loaded(self.plugins[name], self.what) if name in self.plugins else None


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
