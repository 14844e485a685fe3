"""What keys have used: counted in memory by day, model and strategy, written in the background."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache
from typing import NamedTuple
from uuid import uuid4

from veridical.middleware.errors import StateUnavailable, log
from veridical.middleware.state.database import Database

_EPOCH = date(1970, 1, 1).toordinal()


class Spending(NamedTuple):
    """What requests have cost. `estimated_calls` are the backend calls whose tokens the backend did not
    tell: their estimate is in the sums."""

    requests: int = 0
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated_calls: int = 0

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens together."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Spending) -> Spending:  # type: ignore[override]
        """Both together."""
        return Spending(
            self.requests + other.requests,
            self.calls + other.calls,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.estimated_calls + other.estimated_calls,
        )

    def to_wire(self) -> dict[str, int]:
        """As GET /v1/usage shows it."""
        return {
            "requests": self.requests,
            "calls": self.calls,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.tokens,
            "estimated_calls": self.estimated_calls,
        }


class Line(NamedTuple):
    """Under what spending is counted; the day is of UTC, YYYY-MM-DD."""

    key_id: str
    day: str
    model: str
    strategy: str


def today() -> str:
    """The day under which usage is counted now."""
    return _day(int(time.time()) // 86_400)


@lru_cache(maxsize=4)
def _day(number: int) -> str:
    """Day `number` since 1970, which most requests share with the one before."""
    return date.fromordinal(_EPOCH + number).isoformat()


@lru_cache(maxsize=4)
def first_of_month(day: str) -> str:
    """The first day of a day's month."""
    return date.fromisoformat(day).replace(day=1).isoformat()


_ADD = """INSERT INTO usage_by_day
    (key_id, day, model, strategy, requests, calls, prompt_tokens, completion_tokens, estimated_calls)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (key_id, day, model, strategy) DO UPDATE SET
        requests = usage_by_day.requests + excluded.requests,
        calls = usage_by_day.calls + excluded.calls,
        prompt_tokens = usage_by_day.prompt_tokens + excluded.prompt_tokens,
        completion_tokens = usage_by_day.completion_tokens + excluded.completion_tokens,
        estimated_calls = usage_by_day.estimated_calls + excluded.estimated_calls"""
_ADD_BATCH = """INSERT INTO usage_writers (writer, batch) VALUES (?, ?)
    ON CONFLICT (writer) DO UPDATE SET batch = excluded.batch"""
_READ = """SELECT key_id, day, model, strategy,
    requests, calls, prompt_tokens, completion_tokens, estimated_calls
    FROM usage_by_day WHERE day >= ? AND day <= ?"""
_ORDER = " ORDER BY day, key_id, model, strategy LIMIT ?"
_SPENT = """SELECT key_id, CAST(SUM(prompt_tokens + completion_tokens) AS BIGINT)
    FROM usage_by_day WHERE day >= ? GROUP BY key_id"""


@dataclass(frozen=True, slots=True)
class UsageStore:
    """Usage in the state database."""

    database: Database

    async def add(self, writer: str, batch: int, spent: Mapping[Line, Spending]) -> None:
        """Add a process's next batch to what is there; all of it or, where the database fails, nothing."""
        rows = [
            (
                *(line.key_id, line.day, line.model, line.strategy),
                *(each.requests, each.calls, each.prompt_tokens, each.completion_tokens),
                each.estimated_calls,
            )
            for line, each in sorted(spent.items(), key=lambda item: item[0])  # one order: no deadlock
        ]
        await self.database.write((_ADD_BATCH, [(writer, batch)]), (_ADD, rows))

    async def has(self, writer: str, batch: int) -> bool:
        """Whether a process's latest batch is there."""
        sql = "SELECT 1 FROM usage_writers WHERE writer = ? AND batch = ?"
        return bool(await self.database.fetch(sql, writer, batch))

    async def read(
        self, since: str, until: str, *, key_id: str | None, limit: int
    ) -> list[tuple[Line, Spending]]:
        """Usage from day to day, both included, of one key or of all; at most `limit` lines."""
        if key_id is None:
            rows = await self.database.fetch(_READ + _ORDER, since, until, limit)
        else:
            rows = await self.database.fetch(_READ + " AND key_id = ?" + _ORDER, since, until, key_id, limit)
        return [(Line(*row[:4]), Spending(*row[4:])) for row in rows]

    async def spent(self, since: str) -> dict[str, int]:
        """Tokens by key since a day."""
        return {key_id: int(tokens) for key_id, tokens in await self.database.fetch(_SPENT, since)}


@dataclass
class Ledger:
    """Usage on its way into the database. A request only adds to a table in memory.

    What a failing database did not take is kept and written later, as the same batch: where the database
    broke off in the moment of a commit, it is asked first whether that batch is there. Lines of the same
    key, day, model and strategy are one, so that the table stays small.
    """

    store: UsageStore
    writer: str = field(default_factory=lambda: uuid4().hex)
    _open: dict[Line, Spending] = field(default_factory=dict)
    _batch: dict[Line, Spending] = field(default_factory=dict)
    _number: int = 0
    _writing: asyncio.Lock = field(default_factory=asyncio.Lock)

    def add(self, line: Line, spent: Spending) -> None:
        """Count what a request cost."""
        before = self._open.get(line)
        self._open[line] = spent if before is None else before + spent

    async def flush(self) -> None:
        """Write what is not yet written.

        Raises:
            StateUnavailable: the database failed; everything is kept for the next time.
        """
        async with self._writing:
            if self._batch:  # its writing failed, or was not seen to succeed
                await self._write(again=True)
            if self._open:
                self._batch, self._open = self._open, {}
                self._number += 1
                await self._write(again=False)

    async def _write(self, *, again: bool) -> None:
        if not again or not await self.store.has(self.writer, self._number):
            await self.store.add(self.writer, self._number, self._batch)
        self._batch = {}

    async def close(self) -> None:
        """Write the last; what cannot be written now is lost, and the log says how much."""
        try:
            await self.flush()
        except StateUnavailable as error:
            lost = sum((*self._batch.values(), *self._open.values()), Spending())
            log.error(
                "usage of %d requests, %d tokens is lost (%s)", lost.requests, lost.tokens, error.message
            )
