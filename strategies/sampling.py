"""Independent draws of one question, which nothing that shares work may merge."""

from __future__ import annotations

from veridical.strategies.concurrency import concurrently
from veridical.strategies.llm import LLM
from veridical.strategies.prompting import Ask
from veridical.strategies.types import Answer, Params


async def samples(llm: LLM, ask: Ask, n: int, params: Params) -> list[Answer]:
    """`n` answers to the same question, drawn at once.

    Draw i is numbered i. Where `params` fixes a seed it gets `seed + i`: equal seeds would make
    all of them equal.
    """

    async def draw(index: int) -> Answer:
        seed = params.get("seed")
        own = params if seed is None else {**params, "seed": seed + index}
        return await llm.drawing(llm.sample * n + index).answer(ask, own)

    return await concurrently(draw, range(n))
