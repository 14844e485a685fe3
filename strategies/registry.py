"""Strategies are looked up, not scanned for: ours in a table, others' by entry point.

Nothing is imported until it is named. A plug-in that does not load is an error that names its
distribution, and only for whoever asks for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from functools import lru_cache, reduce
from operator import or_
from typing import Any

import pydantic

from veridical.strategies.base import Strategy
from veridical.strategies.errors import (
    ConfigError,
    InvalidRequest,
    NotFound,
    VeridicalError,
    shown,
    suggestion,
)
from veridical.strategies.expression import Stage, parse_expression
from veridical.strategies.plugins import Catalogue, origin

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
    "critic": "veridical.strategies.critic:Critic",
    "self_consistency": "veridical.strategies.self_consistency:SelfConsistency",
    "self_refine": "veridical.strategies.self_refine:SelfRefine",
    "lm_vs_lm": "veridical.strategies.lm_vs_lm:CrossExamination",
    "debate": "veridical.strategies.debate:Debate",
}


CATALOGUE = Catalogue("veridical.strategies", "strategy", BUILT_IN)


def strategy_names() -> list[str]:
    """Every strategy that can be asked for, ours first."""
    return CATALOGUE.names


def loaded_plugins() -> tuple[dict[str, type[Strategy]], list[str]]:
    """All plug-ins, loaded now, by name; and what is wrong with each that cannot be used."""
    found: dict[str, type[Strategy]] = {}
    faults = list(CATALOGUE.clashes.values())
    for name in sorted(CATALOGUE.plugins):
        try:
            found[name] = strategy_class(name)
        except VeridicalError as error:
            faults.append(error.message)
    return found, faults


@lru_cache(maxsize=64)
def strategy_class(name: str) -> type[Strategy]:
    """The class behind a name.

    Raises:
        NotFound: there is none of that name.
        ConfigError: its distribution does not load, or the entry is no strategy.
    """
    found = CATALOGUE.find(name)
    if found is None:
        raise NotFound("strategy", name, strategy_names(), param="strategy")
    if wrong := _unusable(found, name):
        raise ConfigError(f"{origin(CATALOGUE.plugins[name])}: {name!r} {wrong}.")
    return found  # type: ignore[no-any-return]  # a Strategy class, as was just seen


def _unusable(found: Any, name: str) -> str | None:
    """What keeps an entry point's object from being a strategy of that name."""
    if not (isinstance(found, type) and issubclass(found, Strategy)):
        return "is not a Strategy class"
    if lacking := [each for each in ("name", "paper", "calls", "depth") if not hasattr(found, each)]:
        return f"does not say its {lacking[0]}"
    if found.name != name:
        return f"calls itself {shown(found.name)}"
    return None


def roles_used(strategy: Strategy) -> frozenset[str]:
    """The roles whose models a strategy asks: its parts' own, and the generator's unless it is plain
    `direct`, which asks the model that the client names and no other."""
    if all(part.name == "direct" for part in strategy.parts()):
        return frozenset()
    return frozenset({GENERATOR}).union(*(part.roles for part in strategy.parts()))


def check_role_names(names: Iterable[str]) -> None:
    """Refuse a role that no strategy has. Strategies are loaded only for a name that they do not share, and
    plug-ins only for one that none of ours has.

    Raises:
        ConfigError: there is such a role; suggests the nearest names.
    """
    for name in names:
        if name in ROLES:
            continue
        known = ROLES.union(*(strategy_class(each).roles for each in BUILT_IN))
        if name not in known:
            known = known.union(*map(_plugin_roles, CATALOGUE.plugins))
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
