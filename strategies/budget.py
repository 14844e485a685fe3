"""Limits that travel with a request. Running out raises; the pipeline then degrades to a draft."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from veridical.strategies.errors import BudgetExceeded, DeadlineExceeded
from veridical.strategies.types import Usage


@dataclass(frozen=True)
class Limits:
    """What one request may spend: backend calls, tokens (prompt + completion), seconds of wall time."""

    max_calls: int = 128
    max_tokens: int = 200_000
    deadline_s: float = 300.0

    def lowered(self, max_calls: int | None, max_tokens: int | None, deadline_s: float | None) -> Limits:
        """These limits, each lowered to what is asked for: a request can never raise one."""
        if not (max_calls or max_tokens or deadline_s):
            return self
        return Limits(
            min(self.max_calls, max_calls or self.max_calls),
            min(self.max_tokens, max_tokens or self.max_tokens),
            min(self.deadline_s, deadline_s or self.deadline_s),
        )


@dataclass(slots=True)
class Budget:
    """What is left of a request's limits; all its choices and pipe stages share one."""

    limits: Limits = field(default_factory=Limits)
    started: float = field(default_factory=time.monotonic)
    calls: int = 0
    tokens: int = 0

    @property
    def seconds_left(self) -> float:
        """Seconds to the deadline, negative after it."""
        return self.started + self.limits.deadline_s - time.monotonic()

    def admit(self) -> None:
        """Count one call that is about to start.

        Raises:
            BudgetExceeded: no calls or no tokens are left.
            DeadlineExceeded: the deadline has passed.
        """
        if self.seconds_left <= 0:
            raise DeadlineExceeded(f"The deadline of {self.limits.deadline_s:g} s has passed.")
        if self.calls >= self.limits.max_calls:
            raise BudgetExceeded(f"The budget of {self.limits.max_calls} calls is used up.")
        if self.tokens >= self.limits.max_tokens:
            raise BudgetExceeded(f"The budget of {self.limits.max_tokens} tokens is used up.")
        self.calls += 1

    def spend(self, usage: Usage | None) -> None:
        """Count the tokens of a finished call."""
        if usage:
            self.tokens += usage.total_tokens
