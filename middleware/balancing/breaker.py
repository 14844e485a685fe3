"""A circuit breaker: a server that keeps failing is left alone for a while, then tried with one request.

Nygard, "Release It!" (2007), ch. 5: closed, open, half-open. A trial that fails opens it again for
twice as long, up to `LONGEST_OPEN_S`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

LONGEST_OPEN_S = 120.0

State = Literal["closed", "open", "half_open"]


@dataclass(slots=True)
class Breaker:
    """Opens after `failures` in a row (0: never), for `open_s` seconds."""

    failures: int
    open_s: float
    clock: Callable[[], float] = time.monotonic
    _in_a_row: int = 0
    _openings: int = 0
    _until: float | None = None
    _trying: bool = False

    @property
    def state(self) -> State:
        """Closed: requests pass; open: none; half-open: one, whose outcome decides."""
        if self._until is None:
            return "closed"
        return "half_open" if self.clock() >= self._until else "open"

    @property
    def wait_s(self) -> float:
        """Seconds until a request may pass; 0 where one may now, or a trial is under way."""
        return 0.0 if self._until is None else max(0.0, self._until - self.clock())

    def admits(self) -> bool:
        """Whether a request may pass now."""
        return self._until is None or (not self._trying and self.clock() >= self._until)

    def begin(self) -> bool:
        """Let one pass; whether it is the trial."""
        self._trying = self._until is not None
        return self._trying

    def succeeded(self, *, trial: bool) -> None:
        """A request was answered. What began before the breaker opened does not close it."""
        if self._until is None or trial:
            self._in_a_row = self._openings = 0
            self._until, self._trying = None, False

    def failed(self, *, trial: bool) -> bool:
        """A request was not answered; whether this opened the breaker."""
        if self._until is not None and not trial:
            return False
        self._in_a_row += 1
        if not trial and (self.failures == 0 or self._in_a_row < self.failures):
            return False
        wait = min(LONGEST_OPEN_S, self.open_s * 2**self._openings)
        self._openings = min(self._openings + 1, 20)
        self._until, self._trying = self.clock() + wait, False
        return True

    def given_up(self, *, trial: bool) -> None:
        """A request ended without telling anything of the server: its client left."""
        if trial:
            self._trying = False

    def probed(self, *, well: bool) -> bool:
        """A look from outside, which needs no request's luck; whether it opened the breaker."""
        if not well:
            return self.failed(trial=self.state == "half_open" and not self._trying)
        if self._until is not None and not self._trying:
            self.succeeded(trial=True)
        return False
