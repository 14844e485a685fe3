"""Independent draws of one question, which nothing that shares work may merge."""

from __future__ import annotations

from veridical.strategies.concurrency import concurrently
from veridical.strategies.llm import LLM, T, parsed
from veridical.strategies.prompting import Ask
from veridical.strategies.types import Answer, Params


async def samples(llm: LLM, ask: Ask, n: int, params: Params) -> list[Answer]:
    """`n` answers to the same question, drawn at once.

    Draw i is numbered i. Where `params` fixes a seed it gets `seed + i`: equal seeds would make
    all of them equal.
    """

    async def draw(index: int) -> Answer:
        return await _drawing(llm, n, index).answer(ask, _seeded(params, index))

    return await concurrently(draw, range(n))


async def parsed_samples(llm: LLM, ask: Ask, into: type[T], n: int, params: Params) -> list[T]:
    """As `samples`, each read as `into`. Those that cannot be read are dropped, as the papers do:
    asking again would not be the same draw."""

    async def draw(index: int) -> T | None:
        answer = await _drawing(llm, n, index).constrained(ask, into, _seeded(params, index))
        try:
            return parsed(answer.text, into)
        except ValueError as fault:
            llm.trace.note(f"{ask.step}: a sample could not be read and is left out ({fault}).")
            return None

    return [found for found in await concurrently(draw, range(n)) if found is not None]


def _drawing(llm: LLM, n: int, index: int) -> LLM:
    """Draw `index` of `n`, numbered apart from those that the same model draws elsewhere."""
    return llm.drawing(llm.sample * n + index)


def _seeded(params: Params, index: int) -> Params:
    seed = params.get("seed")
    return params if seed is None else {**params, "seed": seed + index}
