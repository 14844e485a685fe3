"""Strategies are looked up, not scanned for: ours in a table, others' by entry point.

Nothing is imported until it is named. A plug-in that does not load is an error that names its
distribution, and only for whoever asks for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from functools import lru_cache, reduce
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from operator import or_
from typing import Any

import pydantic

from veridical.strategies.base import Strategy
from veridical.strategies.errors import ConfigError, InvalidRequest, NotFound, shown, suggestion
from veridical.strategies.expression import Stage, parse_expression

GROUP = "veridical.strategies"

#: The role of the model that drafts, goes on with its draft and writes the final words.
GENERATOR = "generator"
#: Roles that strategies share. Others are a strategy's own, such as the agents of a debate.
ROLES = frozenset({GENERATOR, "verifier", "examiner", "critic", "judge"})

#: The table of contents: name → where it lives.
BUILT_IN = {
    "direct": "veridical.strategies.direct:Direct",
    "rag": "veridical.strategies.rag:RetrievalAugmented",
    "cove": "veridical.strategies.cove:ChainOfVerification",
    "cok": "veridical.strategies.cok:ChainOfKnowledge",
    "lm_vs_lm": "veridical.strategies.lm_vs_lm:CrossExamination",
    "debate": "veridical.strategies.debate:Debate",
}


@lru_cache(maxsize=1)
def plugins() -> dict[str, EntryPoint]:
    """Entry points of other distributions, by strategy name.

    Raises:
        ConfigError: a plug-in takes one of our names, or two take the same.
    """
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        if point.name in BUILT_IN or point.name in found:
            raise ConfigError(f"{_origin(point)} offers a strategy {point.name!r}; that name is taken.")
        found[point.name] = point
    return found


def strategy_names() -> list[str]:
    """Every strategy that can be asked for, ours first."""
    return [*BUILT_IN, *sorted(plugins())]


@lru_cache(maxsize=64)
def strategy_class(name: str) -> type[Strategy]:
    """The class behind a name.

    Raises:
        NotFound: there is none of that name.
        ConfigError: its distribution does not load, or the entry is no strategy.
    """
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        found = getattr(import_module(module), attribute)
    elif name in plugins():
        found = _load(plugins()[name])
    else:
        raise NotFound("strategy", name, strategy_names(), param="strategy")
    if not (isinstance(found, type) and issubclass(found, Strategy)):
        raise ConfigError(f"{name!r} is not a Strategy class.")
    return found


def _load(point: EntryPoint) -> Any:
    try:
        return point.load()
    except Exception as error:
        raise ConfigError(f"{_origin(point)}: strategy {point.name!r} does not load ({error!r}).") from error


def _origin(point: EntryPoint) -> str:
    return f"Distribution {point.dist.name!r}" if point.dist else f"Entry point {point.value!r}"


def roles_used(strategy: Strategy) -> frozenset[str]:
    """The roles whose models a strategy asks: its parts' own, and the generator's unless it is plain
    `direct`, which asks the model that the client names and no other."""
    if all(part.name == "direct" for part in strategy.parts()):
        return frozenset()
    return frozenset({GENERATOR}).union(*(part.roles for part in strategy.parts()))


def check_role_names(names: Iterable[str]) -> None:
    """Refuse a role that no strategy has. Plug-ins are loaded only for a name that none of ours has.

    Raises:
        ConfigError: there is such a role; suggests the nearest names.
    """
    known = ROLES.union(*(strategy_class(name).roles for name in BUILT_IN))
    for name in names:
        if name not in known:
            known = known.union(*map(_plugin_roles, plugins()))
        if name not in known:
            raise ConfigError(f"No strategy has a role {shown(name)}.{suggestion(name, known)}")


def _plugin_roles(name: str) -> frozenset[str]:
    """A plug-in's roles; one that does not load is reported to whoever asks for it, and has none."""
    try:
        return strategy_class(name).roles
    except ConfigError:
        return frozenset()


def build_strategy(stages: Sequence[Stage]) -> Strategy:
    """Make the strategy that was asked for, options validated.

    Raises:
        NotFound: an unknown strategy.
        InvalidRequest: an unknown option, or a value out of range; names both.
    """
    return reduce(or_, (_build(stage) for stage in stages))


def strategy_from(expression: str) -> Strategy:
    """`build_strategy` from an expression's text."""
    return build_strategy(parse_expression(expression))


def _build(stage: Stage) -> Strategy:
    cls = strategy_class(stage.name)
    known = [f.name for f in fields(cls)]
    for option in stage.options:
        if option not in known:
            raise InvalidRequest(
                f"Strategy {stage.name!r} has no option {shown(option)}.{suggestion(option, known)}",
                param="strategy",
            )
    try:
        return _validator(cls).validate_python(dict(stage.options))
    except pydantic.ValidationError as wrong:
        first = wrong.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        what = f"Option {where!r} of strategy" if where else "Strategy"
        raise InvalidRequest(f"{what} {stage.name!r}: {first['msg']}.", param="strategy") from None


@lru_cache(maxsize=64)
def _validator(cls: type[Strategy]) -> pydantic.TypeAdapter[Strategy]:
    return pydantic.TypeAdapter(cls)
