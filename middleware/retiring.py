"""What was replaced while requests were using it, closed once they are over."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from veridical.middleware.backends.engines import Engine
from veridical.middleware.retrieval import Source


@dataclass(eq=False)
class Generation:
    """The requests that began under the same settings."""

    requests: int = 0
    _over: asyncio.Event = field(default_factory=asyncio.Event)

    def leave(self) -> None:
        """One of them is over."""
        self.requests -= 1
        if not self.requests:
            self._over.set()

    async def over(self) -> None:
        """Wait until none is left; where new ones still come, there may never be none."""
        while self.requests:
            self._over.clear()
            await self._over.wait()


class Retired:
    """Engines and sources that only a generation of requests may still need."""

    def __init__(self, generation: Generation, engines: Iterable[Engine], sources: Iterable[Source]) -> None:
        self.generation, self.engines, self.sources = generation, list(engines), list(sources)

    def keep(self, engines: Collection[Engine], sources: Collection[Source]) -> None:
        """These are needed by later requests, too."""
        self.engines = [each for each in self.engines if each not in engines]
        kept = {id(each) for each in sources}
        self.sources = [each for each in self.sources if id(each) not in kept]

    async def retire(self) -> None:
        """Wait for the requests, then stop and close; at once when this is cancelled."""
        try:
            await self.generation.over()
        finally:
            await retire(self.engines, self.sources)


async def retire(engines: Iterable[Engine], sources: Iterable[Source]) -> None:
    """Stop these engines and close these sources."""
    for engine in engines:
        await engine.stop()
    for source in {id(each): each for each in sources}.values():
        await source.close()


async def ended(tasks: Collection[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait until they are over."""
    for task in list(tasks):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
