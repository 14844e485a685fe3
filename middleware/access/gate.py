"""The gate: keys, limits and usage as the settings want them, opened and closed with the server."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from datetime import date
from typing import Any

from veridical.middleware.access.directory import Directory
from veridical.middleware.access.key_store import KeyStore
from veridical.middleware.access.keys import ApiKey, named
from veridical.middleware.access.limiting import Limiter, MemoryLimiter
from veridical.middleware.access.metering import Accounts, Meter
from veridical.middleware.access.usage import Spending, first_of_month, today
from veridical.middleware.config import Settings, StateSettings, secret
from veridical.middleware.errors import NotAllowed, NothingKept
from veridical.middleware.observing.observation import joined_names
from veridical.middleware.state.choosing import not_installed, url_in
from veridical.middleware.state.database import Database
from veridical.middleware.workers.parent import Parent
from veridical.middleware.workers.shared_limits import SharedLimiter
from veridical.strategies.base import Strategy
from veridical.strategies.errors import InvalidRequest

#: Most lines that one answer of GET /v1/usage holds.
MAX_LINES = 10_000


class Gate:
    """Knows the keys and, where those of `veridical keys` are used, keeps their limits and usage.

    `database` is for these, and opened by who has it: keys from the environment have neither limits nor
    usage, and need none.

    Raises:
        ConfigError: an environment variable is not set, or an extra is not installed.
    """

    def __init__(self, settings: Settings, database: Database | None, parent: Parent | None = None) -> None:
        fixed = [named(variable, secret(variable)) for variable in settings.auth.client_keys_env]
        self._opened = AsyncExitStack()
        self.accounts: Accounts | None = None
        store = None
        if settings.auth.keys and database is not None:
            store = KeyStore(database)
            self.accounts = Accounts(database, _limiter(settings.state, parent), settings.state.flush_s)
        self.directory = Directory(fixed, store, settings.auth.refresh_s)

    async def open(self) -> None:
        """Open what keys and usage need.

        Raises:
            ConfigError: Redis cannot be used; nothing stays open.
        """
        parts: list[Directory | Accounts | None] = [self.directory, self.accounts]
        async with AsyncExitStack() as opened:
            for part in parts:
                if part is not None:
                    await part.open()
                    opened.push_async_callback(part.close)
            self._opened = opened.pop_all()

    async def close(self) -> None:
        """Write what is not yet written, and close everything, the last first."""
        await self._opened.aclose()

    async def admit(self, key: ApiKey, model: str, strategy: Strategy, tokens: int) -> Meter | None:
        """Let a request in; its meter, where usage is kept.

        Raises:
            RateLimited: a limit per minute is in the way.
            QuotaExhausted: the month's budget is used up.
        """
        if self.accounts is None:
            return None
        return await self.accounts.admit(key, model, joined_names(strategy), tokens)

    async def report(self, key: ApiKey, asked: Mapping[str, str]) -> dict[str, Any]:
        """What GET /v1/usage answers: a key's own usage, and to an admin's key that of all.

        Raises:
            NothingKept: no usage is kept here.
            NotAllowed: another's usage is asked for.
            InvalidRequest: a day cannot be read.
        """
        if self.accounts is None:
            raise NothingKept("Usage is kept only for keys of `veridical keys` (auth.keys).")
        wanted = asked.get("key")
        if not key.admin and wanted not in (None, key.id):
            raise NotAllowed("Only an admin's key sees the usage of other keys.", param="key")
        since = _day(asked, "since", first_of_month(today()))
        until = _day(asked, "until", today())
        await self.accounts.ledger.flush()  # so that a client finds the request that it has just made
        only = wanted if key.admin else key.id
        found = await self.accounts.usage.read(since, until, key_id=only, limit=MAX_LINES + 1)
        names = {known.id: known.name for known in self.directory.keys}
        lines = [
            {**line._asdict(), "key_name": names.get(line.key_id), **spent.to_wire()}
            for line, spent in found[:MAX_LINES]
        ]
        total = sum((spent for _, spent in found[:MAX_LINES]), Spending())
        return {
            "object": "list",
            "since": since,
            "until": until,
            "data": lines,
            "total": total.to_wire(),
            "has_more": len(found) > MAX_LINES,
        }


def may_use(key: ApiKey, strategy: Strategy) -> bool:
    """Whether a key may use every part of a strategy."""
    return key.forbidden(part.name for part in strategy.parts()) is None


def check_strategy(key: ApiKey, strategy: Strategy) -> None:
    """Refuse a strategy that a key may not use.

    Raises:
        NotAllowed: names the strategy, and what the key may use.
    """
    name = key.forbidden(part.name for part in strategy.parts()) if key.strategies else None
    if name is not None:
        may = ", ".join(key.strategies)
        raise NotAllowed(
            f"This API key may not use the strategy {name!r}; it may use: {may}.", param="strategy"
        )


def _day(asked: Mapping[str, str], name: str, otherwise: str) -> str:
    try:
        return date.fromisoformat(asked[name]).isoformat() if name in asked else otherwise
    except ValueError:
        raise InvalidRequest(f"'{name}' must be a day, such as {today()}.", param=name) from None


def _limiter(settings: StateSettings, parent: Parent | None) -> Limiter:
    if settings.redis_url_env is None:
        return SharedLimiter(parent) if parent else MemoryLimiter()
    url = url_in(settings.redis_url_env, ("redis://", "rediss://", "unix://"))
    try:
        from veridical.middleware.access.redis_limiter import RedisLimiter
    except ImportError:
        raise not_installed("redis") from None
    return RedisLimiter(url)
