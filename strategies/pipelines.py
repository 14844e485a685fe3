"""Pipelines that a configuration names, and the strategies that requests make from them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

from veridical.strategies.base import Strategy
from veridical.strategies.errors import ConfigError, InvalidRequest, NotFound, VeridicalError, shown
from veridical.strategies.expression import MAX_STAGES, NAME, Stage, parse_expression, too_long
from veridical.strategies.registry import BUILT_IN, build_strategy, strategy_names


class Pipelines:
    """Turns what is asked for into strategies; a pipeline's name stands for its stages, anywhere in
    an expression and in other pipelines.

    Raises:
        ConfigError: a name cannot be asked for or is a strategy's, an expression cannot be used, or
            pipelines name one another in a circle.
    """

    def __init__(self, expressions: Mapping[str, str] | None = None) -> None:
        self._stages: dict[str, tuple[Stage, ...]] = {}
        self.read = lru_cache(maxsize=256)(self._read)
        for name, expression in (expressions or {}).items():
            if not re.fullmatch(NAME, name):
                raise ConfigError(f"Pipeline {shown(name)}: a name has letters, digits and _ . - only.")
            if name in strategy_names():
                raise ConfigError(f"Pipeline {name!r} has the name of a strategy.")
            try:
                self._stages[name] = parse_expression(expression)
            except VeridicalError as error:
                raise ConfigError(f"Pipeline {name!r}: {error.message}") from None
        for name in self.names:
            self._check(name)

    @property
    def names(self) -> list[str]:
        """The names of the pipelines."""
        return list(self._stages)

    def build(self, stages: Sequence[Stage]) -> Strategy:
        """The strategy of stages that may be pipelines.

        Raises:
            NotFound: an unknown name.
            InvalidRequest: an option is unknown or out of range, or a pipeline is given options.
        """
        return build_strategy(self._expanded(stages, ()))

    def _read(self, expression: str) -> Strategy:
        """`build` from an expression's text; `read` is this with a memory."""
        return self.build(parse_expression(expression))

    def _check(self, name: str) -> None:
        try:
            self.read(name)
        except VeridicalError as error:
            raise ConfigError(f"Pipeline {name!r}: {error.message}") from None

    def _expanded(self, stages: Sequence[Stage], within: tuple[str, ...]) -> list[Stage]:
        found: list[Stage] = []
        for stage in stages:
            if stage.name in within:
                raise ConfigError(f"it names itself: {' > '.join((*within, stage.name))}.")
            if stage.name not in self._stages:
                self._check_known(stage.name)
                found.append(stage)
            elif stage.options:
                raise InvalidRequest(f"The pipeline {stage.name!r} takes no options.", param="strategy")
            else:
                found += self._expanded(self._stages[stage.name], (*within, stage.name))
            if len(found) > MAX_STAGES:
                raise too_long()
        return found

    def _check_known(self, name: str) -> None:
        if name in BUILT_IN:  # which is known without a look at what other distributions offer
            return
        known = [*strategy_names(), *self._stages]
        if name not in known:
            raise NotFound("strategy", name, known, param="strategy")
