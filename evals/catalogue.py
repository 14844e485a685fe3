"""The tasks by name: where each lives and what it needs. Nothing is imported until it is asked for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from inspect_ai import Task

from veridical.evals.data import Source
from veridical.strategies.errors import InvalidRequest, NotFound

TASKS = (
    "hotpotqa",
    "truthfulqa_mc",
    "truthfulqa_gen",
    "factscore",
    "triviaqa",
    "popqa",
    "simpleqa",
    "openbookqa",
    "medmcqa",
    "fever",
    "halueval",
)
#: Parameters that say where things are, not what is measured.
_PLACES = frozenset({"data"})


@dataclass(frozen=True)
class Entry:
    """One task: its module, and the function in it that makes the inspect_ai task."""

    name: str

    @property
    def module(self) -> ModuleType:
        """The task's module."""
        return import_module(f"veridical.evals.{self.name}")

    @property
    def make(self) -> Callable[..., Task]:
        """Makes the task."""
        found: Callable[..., Task] = getattr(self.module, self.name)
        return found

    @property
    def source(self) -> Source:
        """Its question file."""
        found: Source = self.module.SOURCE
        return found

    @property
    def vote(self) -> Callable[[str], str | None] | None:
        """What a reply counts as in a vote; None where replies cannot be put to the vote."""
        return getattr(self.module, "vote", None)

    def judged(self, arguments: Mapping[str, Any]) -> bool:
        """Whether a judge model grades it, with these arguments."""
        settings: Collection[str] = getattr(self.module, "JUDGED", ())
        return self._value("setting", arguments) in settings

    @property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """What `-T name=value` may set."""
        return inspect.signature(self.make).parameters

    @property
    def summary(self) -> str:
        """The first paragraph of its description."""
        return " ".join((inspect.getdoc(self.make) or "").split("\n\n")[0].split())

    def described(self) -> dict[str, Any]:
        """What `veridical eval list` shows."""
        shown = {name: each for name, each in self.parameters.items() if name not in _PLACES}
        return {
            "name": self.name,
            "summary": self.summary,
            "files": list(self.source.files),
            "hub": self.source.official,
            "needs_judge": self.judged({}),
            "parameters": {name: each.default for name, each in shown.items()},
            "choices": {name: list(found) for name in shown if (found := self._choices(name))},
        }

    def checked(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments that this task takes.

        Raises:
            InvalidRequest: one that it has not, or a value outside its choices.
        """
        for name, value in arguments.items():
            if name not in self.parameters:
                known = ", ".join(self.parameters)
                raise InvalidRequest(
                    f"The task {self.name} has no parameter {name!r}; it has {known}.", param=name
                )
            choices = self._choices(name)
            if choices and value not in choices:
                offered = ", ".join(choices)
                raise InvalidRequest(f"{self.name}: {name} is one of {offered}, not {value!r}.", param=name)
        return dict(arguments)

    def setting(self, arguments: Mapping[str, Any]) -> str:
        """What tells this way of running the task from others: its setting, then what else is not default."""
        others = [
            f"{name}={_spelled(value)}"
            for name in self.parameters
            if name not in {"setting", *_PLACES}
            and (value := self._value(name, arguments)) != self.parameters[name].default
        ]
        return ",".join(filter(None, [self._value("setting", arguments), *others]))

    def _value(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """What a parameter is under these arguments; "" where the task has none of the name."""
        parameter = self.parameters.get(name)
        return arguments.get(name, parameter.default) if parameter else ""

    def _choices(self, name: str) -> tuple[str, ...]:
        """The values of a parameter that has a fixed choice; none where it is free."""
        hint = get_type_hints(self.make).get(name)
        return get_args(hint) if get_origin(hint) is Literal else ()


def _spelled(value: Any) -> str:
    """A value for a label; of a file only its name, since folders differ between machines."""
    return str(value).rpartition("/")[2]


def entry(name: str) -> Entry:
    """The task of this name.

    Raises:
        NotFound: there is none; the message offers the nearest names.
    """
    if name not in TASKS:
        raise NotFound("task", name, TASKS)
    return Entry(name)
