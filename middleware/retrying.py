"""A backend that asks again: for a strategy's inner calls, never for `direct`."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

from veridical.strategies.backend import Backend, ChatRequest
from veridical.strategies.budget import Budget
from veridical.strategies.errors import BackendError
from veridical.strategies.reply import Reply
from veridical.strategies.types import Params

FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 8.0


@dataclass(frozen=True)
class Retrying:
    """Retries 429, 5xx and lost connections at most twice, within the request's deadline.

    The wait is full-jitter exponential back-off (Brooker, "Exponential Backoff And Jitter",
    2015), or what `Retry-After` says. A wait past the deadline is not begun: the error comes at once.
    """

    backend: Backend
    budget: Budget
    retries: int = 2

    @property
    def supports(self) -> set[str]:
        """What the wrapped backend supports."""
        return self.backend.supports

    def adapted(self, params: Params) -> Params:
        """As the wrapped backend has it."""
        return self.backend.adapted(params)

    async def chat(self, request: ChatRequest) -> Reply:
        """Answer, after at most two more tries."""
        for attempt in range(self.retries):
            try:
                return await self.backend.chat(request)
            except BackendError as error:
                wait = _wait(error, attempt)
                if not error.retryable or wait >= self.budget.seconds_left:
                    raise
            await asyncio.sleep(wait)
        return await self.backend.chat(request)


def _wait(error: BackendError, attempt: int) -> float:
    """Seconds before the next try. A Retry-After that is a date is not read as a number."""
    try:
        asked = float(error.retry_after or "")
    except ValueError:
        return random.uniform(0, min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**attempt))  # noqa: S311 - no secret
    return max(0.0, asked)
