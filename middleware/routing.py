"""From the name that a client asks for to a backend, its model, and a strategy."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from veridical.middleware.backends.openai_http import CREDENTIALS
from veridical.middleware.backends.relay import Upstream
from veridical.middleware.balancing.pool import Pool, Target
from veridical.middleware.balancing.pooled import PooledBackend, PooledRelay
from veridical.middleware.balancing.replica import Replica
from veridical.strategies.backend import Backend
from veridical.strategies.errors import BackendError, BackendRefused, BackendTimeout, NotFound

#: Model lists are read again for an unknown name, but not more often than this.
REREAD_S = 10.0
#: Lists kept per backend: one for each client credential that is forwarded.
MAX_LISTS = 256
#: Seconds that a backend gets to list its models.
READ_TIMEOUT_S = 10.0

_SHOWN = sorted(CREDENTIALS)

T = TypeVar("T")
#: Whether a client may see a backend's model: (backend, model). What it may not see is not there for it.
Visible = Callable[[str, str], bool]
#: A longer name is no MODEL+STRATEGY; reading it in every way would take long.
MAX_NAME = 2_000


async def _at_once() -> None:
    return None


@dataclass
class Mounted:
    """A backend as the proxy serves it.

    `names` maps our model names to its; None means that its own list decides. `http` is the
    same backend where bytes can be relayed to it. `ready` waits for a supervised engine. `pool` has its
    servers, where they are balanced or limited.
    """

    name: str
    backend: Backend
    names: Mapping[str, str] | None = None
    http: Upstream | None = None
    ready: Callable[[], Awaitable[None]] = _at_once
    is_ready: Callable[[], bool] = lambda: True
    pool: Pool | None = None
    _lists: dict[str, tuple[float, dict[str, dict[str, Any]]]] = field(default_factory=dict, repr=False)
    _failures: dict[str, tuple[float, BackendError]] = field(default_factory=dict, repr=False)
    _reading: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)

    async def models(
        self, headers: Mapping[str, str], *, newer_than: float = 0.0
    ) -> dict[str, dict[str, Any]]:
        """Model objects by the names that we serve, read from the backend when the list held is older.

        A failure is remembered like a list: a backend that is down is not asked by every request.

        Raises:
            BackendError: the backend has no list, or does not answer.
        """
        if self.names is not None or self.http is None:
            return {name: _model(name, self.name) for name in self.names or ()}
        key = self._asked_as(self.http, headers)
        if (listed := self._held(key, newer_than)) is not None:
            return listed
        async with self._reading:
            if (listed := self._held(key, newer_than)) is not None:
                return listed
            try:
                listed = {model["id"]: model for model in await self._read(self.http, headers)}
            except BackendError as error:
                _keep(self._failures, key, (time.monotonic(), error))
                raise
            self._failures.pop(key, None)
            _keep(self._lists, key, (time.monotonic(), listed))
        return listed

    def listed(self, headers: Mapping[str, str]) -> Container[str] | None:
        """The names that it serves, as far as they are known without asking."""
        if self.names is not None or self.http is None:
            return self.names or ()
        held = self._lists.get(self._asked_as(self.http, headers))
        return held[1] if held else None

    @staticmethod
    def _asked_as(http: Upstream, headers: Mapping[str, str]) -> str:
        """By whom it is asked, as it sees it."""
        return "\n".join([headers.get(name, "") for name in _SHOWN]) if http.forwards_authorization else ""

    def _held(self, key: str, newer_than: float) -> dict[str, dict[str, Any]] | None:
        at, listed = self._lists.get(key, (-1.0, {}))
        if at >= max(0.0, newer_than):
            return listed
        failed_at, error = self._failures.get(key, (-1.0, None))
        if error is not None and failed_at >= max(0.0, newer_than):
            raise error
        return None

    async def _read(self, http: Upstream, headers: Mapping[str, str]) -> list[dict[str, Any]]:
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                return await http.models(headers)
        except TimeoutError:
            raise BackendTimeout(f"Backend {self.name!r} did not list its models in time.") from None
        except BackendRefused as refused:
            if refused.status not in (404, 405, 501):
                raise
            words = f"Backend {self.name!r} lists no models: name them under 'models' in its configuration."
            raise BackendRefused(words, status=404) from None

    def servers(self) -> list[Mounted]:
        """Its servers, where it has several, each as a backend of its own."""
        targets = list(self.pool.targets) if self.pool else []
        alone = [Pool(each.replica.name, [[Target(each.replica)]]) for each in targets if len(targets) > 1]
        return [balanced(pool, self.names) for pool in alone]

    def upstream(self, name: str) -> str:
        """What the backend calls the model that we call `name`."""
        return (self.names or {}).get(name, name)


def balanced(pool: Pool, names: Mapping[str, str] | None) -> Mounted:
    """A pool as a backend that the proxy serves."""
    relays = all(target.replica.http for target in pool.targets)
    return Mounted(
        pool.name,
        PooledBackend(pool),
        names,
        PooledRelay(pool) if relays else None,
        pool.ready,
        pool.is_ready,
        pool,
    )


def _keep(table: dict[str, T], key: str, value: T) -> None:
    """Put `value` into a table that holds at most MAX_LISTS, the oldest leaving first."""
    table.pop(key, None)
    while len(table) >= MAX_LISTS:
        table.pop(next(iter(table)))
    table[key] = value


def _model(name: str, owner: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": owner}


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request goes: a backend, the model's name there, the known name, and the suffix."""

    mounted: Mounted
    model: str
    name: str
    suffix: str | None = None


class Router:
    """Finds routes among the mounted backends; the first that serves a name has it.

    `BACKEND/MODEL` asks one backend by name. A model whose own name holds "+" is found whole
    before any part of it is taken for a strategy. `aliases` are models of our own, each mounted under its
    name; they come before the backends' models.
    """

    def __init__(self, mounted: Sequence[Mounted], aliases: Sequence[Mounted] = ()) -> None:
        self.mounted = list(mounted)
        self.aliases = {alias.name: alias for alias in aliases}

    @property
    def servers(self) -> list[Replica]:
        """Every server that is balanced or limited, to look at how it fares."""
        return [target.replica for each in self.mounted if each.pool for target in each.pool.targets]

    async def resolve(
        self, name: str, headers: Mapping[str, str], visible: Visible = lambda backend, model: True
    ) -> Route:
        """The route of a requested model name among the models that are visible.

        Raises:
            NotFound: no backend serves it, with the nearest names.
            BackendError: a backend that might serve it cannot be asked.
        """
        if (alias := self.aliases.get(name)) and visible(name, name):
            return Route(alias, name, name)
        if route := self._known(name, headers, visible):
            return route
        routes, failed = await self._routes(name, headers, visible, newer_than=0.0)
        if routes is None:
            newer_than = time.monotonic() - REREAD_S
            routes, failed = await self._routes(name, headers, visible, newer_than=newer_than)
        if routes is not None:
            return routes
        if failed:
            raise failed
        known = [
            model
            for mounted in (*self.aliases.values(), *self.mounted)
            for model in await mounted.models(headers)
            if visible(mounted.name, model)
        ]
        _, plus, suffix = name.partition("+")
        raise NotFound("model", name, [model + plus + suffix for model in known], param="model")

    def _known(self, name: str, headers: Mapping[str, str], visible: Visible) -> Route | None:
        """The route where the lists that are held tell it, without waiting: that of most requests."""
        tables = []
        for mounted in self.mounted:
            listed = mounted.listed(headers)
            if listed is None:
                return None
            tables.append((mounted, listed))
        return self._match(name, tables, visible)

    def _match(
        self, name: str, tables: Sequence[tuple[Mounted, Container[str]]], visible: Visible
    ) -> Route | None:
        for model, suffix in splits(name):
            if (alias := self.aliases.get(model)) and visible(model, model):
                return Route(alias, model, model, suffix)
            for mounted, table in tables:
                for known in (model, model.removeprefix(f"{mounted.name}/")):
                    if known in table and visible(mounted.name, known):
                        return Route(mounted, mounted.upstream(known), known, suffix)
        return None

    async def _routes(
        self, name: str, headers: Mapping[str, str], visible: Visible, *, newer_than: float
    ) -> tuple[Route | None, BackendError | None]:
        failed: BackendError | None = None
        tables: list[tuple[Mounted, dict[str, dict[str, Any]]]] = []
        for mounted in self.mounted:
            try:
                tables.append((mounted, await mounted.models(headers, newer_than=newer_than)))
            except BackendError as error:
                failed = error
        return self._match(name, tables, visible), failed

    async def models(
        self,
        headers: Mapping[str, str],
        strategies: Sequence[str],
        visible: Visible = lambda backend, model: True,
    ) -> list[dict[str, Any]]:
        """Every visible model, and each with each of `strategies`, as OpenAI model objects.

        Raises:
            BackendError: no backend could be asked.
        """
        newer_than = time.monotonic() - REREAD_S
        listed: dict[str, dict[str, Any]] = {}
        failed: BackendError | None = None
        for mounted in (*self.aliases.values(), *self.mounted):
            try:
                found = await mounted.models(headers, newer_than=newer_than)
            except BackendError as error:
                failed = error
                continue
            for name, model in found.items():
                if not visible(mounted.name, name):
                    continue
                listed.setdefault(name, model)
                for strategy in strategies:
                    listed.setdefault(f"{name}+{strategy}", {**model, "id": f"{name}+{strategy}"})
        if failed and not listed:
            raise failed
        return list(listed.values())


def splits(name: str) -> Iterator[tuple[str, str | None]]:
    """Every way to read a name as MODEL or MODEL+STRATEGY, the longest model first."""
    yield name, None
    at = len(name) if len(name) <= MAX_NAME else 0
    while (at := name.rfind("+", 0, at)) > 0:
        yield name[:at], name[at + 1 :]
