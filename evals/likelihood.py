"""Log-probabilities of given continuations, from a completions endpoint that echoes the prompt's (vLLM)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from inspect_ai.model import get_model
from inspect_ai.util import concurrency

from veridical.strategies.concurrency import concurrently


class NoPromptLogprobs(RuntimeError):
    """The endpoint's answer does not hold the prompt's log-probabilities, or no token border fits."""


async def log_likelihoods(prompt: str, options: Sequence[str]) -> tuple[dict[str, float], dict[str, Any]]:
    """Σ log p(token) of each option after `prompt` and a space, and what the requests cost.

    Raises:
        NoPromptLogprobs: the endpoint does not echo, or a token straddles the border.
    """
    start = time.monotonic()

    async def one(option: str) -> tuple[float, int]:
        return await _log_likelihood(prompt, f" {option}")

    found = await concurrently(one, options)
    sums = {option: total for option, (total, _) in zip(options, found, strict=True)}
    account = {
        "calls": len(options),
        "depth": 1,
        "prompt_tokens": sum(tokens for _, tokens in found),
        "completion_tokens": 0,
        "seconds": time.monotonic() - start,
    }
    return sums, account


async def _log_likelihood(prompt: str, continuation: str) -> tuple[float, int]:
    model = get_model()
    api: Any = model.api
    async with concurrency(str(model), model.config.max_connections or 4):
        reply = await api.client.completions.create(
            model=api.service_model_name(),
            prompt=prompt + continuation,
            echo=True,
            logprobs=1,
            max_tokens=1,
            temperature=0,
        )
    usage = reply.usage.prompt_tokens if reply.usage else 0
    return continuation_sum(reply.choices[0].logprobs, len(prompt), len(prompt) + len(continuation)), usage


def continuation_sum(told: Any, start: int, end: int) -> float:
    """The sum over the tokens in `[start, end)` of the text; the generated token behind is not among them.

    Raises:
        NoPromptLogprobs: see above.
    """
    offsets = list(getattr(told, "text_offset", None) or ())
    if not offsets or offsets[0] >= start:
        raise NoPromptLogprobs("the endpoint does not return the prompt's log-probabilities (echo)")
    if start not in offsets:
        raise NoPromptLogprobs("a token straddles the border between the prompt and the option")
    pairs = zip(offsets, told.token_logprobs, strict=True)
    return float(sum(value for offset, value in pairs if start <= offset < end))
