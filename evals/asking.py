"""Ask the endpoint under test one question, and keep what it tells about its work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from inspect_ai import Task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.event import ModelEvent
from inspect_ai.log import transcript
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import Scorer
from inspect_ai.solver import Generate, Solver, TaskState, solver

from veridical.evals.data import Rows, distinct

#: Where a sample's store keeps the endpoint's own account.
ACCOUNT = "veridical_account"


class EndpointRefused(RuntimeError):
    """The endpoint answered with an error that the client library gives back as a text."""


def asking(
    samples: Sequence[Sample],
    scorer: Scorer,
    *,
    source: Rows,
    setting: str,
    max_tokens: int,
    solver: Solver | None = None,
) -> Task:
    """A task that puts each sample to the endpoint once, greedily, with answers of bounded length."""
    return Task(
        dataset=MemoryDataset(distinct(samples)),
        solver=solver or answer(),
        scorer=scorer,
        config=GenerateConfig(temperature=0.0, max_tokens=max_tokens),
        metadata={"setting": setting, "data": source.origin, "data_sha256": source.sha256},
    )


@solver
def answer() -> Solver:
    """One chat completion; a sample with a `seed` in its metadata is drawn with that."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        seed = state.metadata.get("seed")
        state = await generate(state) if seed is None else await generate(state, seed=seed)
        state.store.set(ACCOUNT, _account())
        return state

    return solve


def _account() -> dict[str, Any]:
    """What the sample's last call cost, and what the endpoint says of its answer.

    Seconds are those of the HTTP exchange: without the wait for a connection, without retries; none
    where a cache answered, which is faster than the strategy is.
    """
    call = next(event for event in reversed(transcript().events) if isinstance(event, ModelEvent)).call
    if call is None or not call.response:
        return {}
    if call.error:  # an error whose text the library would pass on as the answer
        raise EndpointRefused(str(call.response.get("message") or call.response)[:300])
    account = account_of(call.response)
    return account | {"seconds": None if account["cached_calls"] else call.time}


def account_of(response: Mapping[str, Any]) -> dict[str, Any]:
    """The cost and the report in a chat completion; an endpoint that reports nothing made one call."""
    usage, report = response.get("usage") or {}, response.get("veridical") or {}
    return {
        "calls": report.get("calls", 1),
        "cached_calls": (report.get("cache") or {}).get("hits"),
        "depth": report.get("depth", 1),
        "status": report.get("status", ""),
        "confidence": report.get("confidence"),
        "prompt_tokens": usage.get("prompt_tokens"),
        "completion_tokens": usage.get("completion_tokens"),
        "cached_tokens": (usage.get("prompt_tokens_details") or {}).get("cached_tokens"),
        "claims": [
            {"text": claim["text"], "verdict": claim["verdict"]} for claim in report.get("claims") or ()
        ],
        "cited": _cited(report),
    }


def _cited(report: Mapping[str, Any]) -> list[str] | None:
    """Titles of the passages that the answer cites; None where nothing was retrieved."""
    if "evidence" not in report:
        return None
    used = {name for sentence in report.get("support") or () for name in sentence["evidence"]}
    return [passage.get("title") or "" for passage in report["evidence"] if passage.get("id") in used]
