"""Independent draws of one question, which nothing that shares work may merge."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pydantic

from veridical.strategies.concurrency import concurrently
from veridical.strategies.llm import LLM, parsed
from veridical.strategies.prompting import Ask
from veridical.strategies.types import Answer, Params

T = TypeVar("T", bound=pydantic.BaseModel)


async def samples(llm: LLM, ask: Ask, n: int, params: Params) -> list[Answer]:
    """`n` independent answers to the same question, under exactly these parameters.

    A backend that takes `n` draws them in one request, which counts as one call; what it leaves
    out, or refuses, is drawn one by one, all at once. So are draws with a fixed seed: draw i gets
    `seed + i`, since equal seeds may make all of them equal, and servers differ in what they make
    of a seed for several choices.
    """

    async def draw(index: int) -> Answer:
        return await llm.nth(index).answer(ask, _seeded(params, index))

    return await _drawn(llm, ask, n, params, draw)


async def parsed_samples(llm: LLM, ask: Ask, into: type[T], n: int, params: Params) -> list[T]:
    """As `samples`, each read as `into`. Those that cannot be read are dropped, as the papers do:
    asking again would not be the same draw."""

    async def draw(index: int) -> Answer:
        return await llm.nth(index).constrained(ask, into, _seeded(params, index))

    async def whole(index: int) -> Answer:
        """The draw; by itself, which gives it room, where our limit left it no words."""
        answer = drawn[index]
        return await draw(index) if answer.finish_reason == "length" and not answer.text.strip() else answer

    drawn = await _drawn(llm, ask, n, llm.shaped(into, params), draw)
    found: list[T] = []
    for answer in await concurrently(whole, range(n)):
        try:
            found.append(parsed(answer.text, into))
        except ValueError as fault:
            llm.trace.note(f"{ask.step}: a sample could not be read and is left out ({fault}).")
    return found


async def _drawn(
    llm: LLM, ask: Ask, n: int, params: Params, draw: Callable[[int], Coroutine[Any, Any, Answer]]
) -> list[Answer]:
    """The draws: in one request under `params` as far as that goes, the rest by `draw`."""
    supports = llm.backend.supports
    before = set(supports)
    several = n > 1 and params.get("seed") is None and "n" in supports
    drawn = await llm.nth(0).answers(ask, params, n) if several else []
    rest = await concurrently(draw, range(len(drawn), n))
    if several and not drawn and supports == before:  # refused, and sound without it: it was the n
        supports.discard("n")
    return [*drawn, *rest]


def _seeded(params: Params, index: int) -> Params:
    seed = params.get("seed")
    return params if seed is None else {**params, "seed": seed + index}
