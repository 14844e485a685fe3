"""From settings to live objects: the connection pool, the backends, the router."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import cached_property

import aiohttp

from veridical.middleware.access.gate import Gate
from veridical.middleware.balancing.probing import probe_on
from veridical.middleware.cache.cache import Cache, identities_of, make_cache
from veridical.middleware.config import Settings, secret
from veridical.middleware.domains import domains
from veridical.middleware.errors import log
from veridical.middleware.mounting import Mounts, by_ourselves
from veridical.middleware.observing.assembling import Observers
from veridical.middleware.observing.observation import joined_names
from veridical.middleware.observing.standing import watch_backends, watch_cache
from veridical.middleware.responses.database_store import response_store
from veridical.middleware.responses.store import ResponseStore
from veridical.middleware.retiring import Generation, Retired, ended, retire
from veridical.middleware.retrieval import Source
from veridical.middleware.routing import Route, Router
from veridical.middleware.sources import sources
from veridical.middleware.state.choosing import database_for
from veridical.middleware.state.database import Database
from veridical.middleware.tools import configured_tools
from veridical.middleware.workers.parent import Parent
from veridical.strategies.base import Strategy, no_source
from veridical.strategies.errors import BackendError, ConfigError, InvalidRequest, NotFound, shown
from veridical.strategies.pipelines import Pipelines
from veridical.strategies.prompting import environment
from veridical.strategies.registry import BUILT_IN, CATALOGUE, check_role_names, roles_used, strategy_class
from veridical.strategies.tools import registry as tool_registry
from veridical.strategies.tools.registry import make_tool

#: What another assembly's settings change; the rest is this one's for as long as the process lives.
_ADOPTED = (
    *("settings", "generation", "sources", "domains", "tools", "pipelines", "advertised"),
    *("mounts", "router", "balances"),
)


class Assembly:
    """Everything that serves requests; built from settings, then opened and closed once.

    One that is to take the place of a `previous` one shares what does not change: connections, keys, what
    is kept, and each backend, engine and source whose settings are the same. One of several workers has a
    `parent`, who has the engines and the limits.

    Raises:
        ConfigError: a strategy, a role, a key variable or an engine that the settings name is not there.
    """

    def __init__(
        self, settings: Settings, previous: Assembly | None = None, parent: Parent | None = None
    ) -> None:
        self.settings = settings
        self.parent: Parent | None = previous.parent if previous else parent
        self.generation = Generation()
        self.sessions: dict[bool, aiohttp.ClientSession] = previous.sessions if previous else {}
        self._retiring: set[asyncio.Task[None]] = set()
        self._probing: set[asyncio.Task[None]] = set()
        self._opened = AsyncExitStack()
        check_role_names(settings.roles)
        self.database: Database | None = previous.database if previous else database_for(settings)
        self.gate: Gate | None = previous.gate if previous else self._gate()
        self.responses: ResponseStore = (
            previous.responses if previous else response_store(settings, self.database)
        )
        self.cache: Cache | None = previous.cache if previous else _cache(settings)
        same_sources = previous is not None and previous.settings.retrievers == settings.retrievers
        kept_sources = previous.sources if previous and same_sources else None
        self.sources: dict[str, Source] = kept_sources or sources(settings.retrievers, secret)
        self.domains = domains(settings)
        self.tools = configured_tools(settings.tools, self.session, secret)
        self.pipelines = Pipelines(settings.pipelines)
        for name in self.pipelines.names:
            self._check_pipeline(name)
        for name in (settings.default_strategy, *(settings.advertise or ())):
            self.pipelines.read(name)
        self.mounts: Mounts = Mounts(
            settings,
            self.session,
            forwards_credentials=self.forwards_credentials,
            previous=previous.mounts if previous else None,
            run=self.parent.engine if self.parent else by_ourselves,
        )
        self.router = Router(list(self.mounts.backends.values()), self.mounts.models)
        self.balances = any(mounted.pool for mounted in self.router.mounted)
        self.observers: Observers = previous.observers if previous else self._observers()

    def _gate(self) -> Gate | None:
        return Gate(self.settings, self.database, self.parent) if self.settings.auth.required else None

    def _observers(self) -> Observers:
        observers = Observers(self.settings, self.gate, self._known_pipes())
        if metrics := observers.metrics:
            watch_backends(metrics, lambda: self.router)
            if self.cache:
                watch_cache(metrics, self.cache.counts)
        return observers

    def _known_pipes(self) -> list[str]:
        """The pipes that the settings name, by the names in them: the only ones with metrics of their own."""
        named = [*self.pipelines.names, *(self.settings.advertise or ()), self.settings.default_strategy]
        return [joined_names(self.pipelines.read(name)) for name in named]

    def _check_pipeline(self, name: str) -> None:
        try:
            self.check_sources(self.pipelines.read(name))
            self.check_tools(self.pipelines.read(name))
        except InvalidRequest as error:
            raise ConfigError(f"Pipeline {name!r}: {error.message}") from None

    def prepare(self) -> None:
        """Import what a relayed request does without and others need, every strategy above all, and tell of
        plug-ins that clash. Takes a tenth of a second of processor time; may run on a thread."""
        for name in BUILT_IN:
            strategy_class(name)
        environment()
        for fault in (*CATALOGUE.clashes.values(), *tool_registry.CATALOGUE.clashes.values()):
            log.warning("%s", fault)

    @cached_property
    def advertised(self) -> list[str]:
        """What /v1/models lists; unless told, all of ours and the pipelines, but nothing that lacks a
        source to search: it would only be refused."""
        read, names, wanted = self.pipelines.read, self.pipelines.names, self.settings.advertise
        if wanted is not None:
            return [each if each in names else str(read(each)) for each in wanted]
        ours = [name for name in BUILT_IN if name != "direct" and read(name).sources <= self.sources.keys()]
        return [*ours, *names]

    @property
    def forwards_credentials(self) -> bool:
        """Whether a client's own credentials may reach a backend: never where it has one of our keys."""
        return self.gate is None

    def session(self, *, pooled: bool = True) -> aiohttp.ClientSession:
        """The one connection pool, or a session whose connections serve once; made on first use,
        inside the running loop."""
        if pooled not in self.sessions:
            alive = {"keepalive_timeout": 30.0} if pooled else {"force_close": True}
            self.sessions[pooled] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, **alive),
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("User-Agent", "Accept"),
            )
        return self.sessions[pooled]

    def check_sources(self, strategy: Strategy) -> None:
        """Refuse a strategy that searches where there is nothing, before anything is spent.

        Raises:
            InvalidRequest: a source is missing; names those that there are.
        """
        for missing in sorted(strategy.sources - self.sources.keys()):
            raise no_source(missing, self.sources)

    def check_tools(self, strategy: Strategy) -> None:
        """Refuse a strategy whose tool is not there, before anything is spent; tools that need no
        settings are made on first use.

        Raises:
            InvalidRequest: there is no such tool, or it is not installed.
            ConfigError: another distribution's tool does not load; names the distribution.
        """
        for missing in sorted(strategy.tools - self.tools.keys()):
            self.tools[missing] = make_tool(missing, self.tools)

    async def roles_of(self, strategy: Strategy, headers: Mapping[str, str]) -> dict[str, Route]:
        """Where the roles that a strategy uses are answered; other roles are not looked at.

        Raises:
            ConfigError: a role names a model that no backend serves.
        """
        if not self.settings.roles:
            return {}
        used = roles_used(strategy) & self.settings.roles.keys()
        return {role: await self._route_of(role, headers) for role in sorted(used)}

    async def _route_of(self, role: str, headers: Mapping[str, str]) -> Route:
        model = self.settings.roles[role]
        try:
            route = await self.router.resolve(model, headers)
        except NotFound as error:
            raise ConfigError(f"The role {role!r} is misconfigured: {error.message}") from None
        if route.suffix is not None:
            words = f"{shown(model)} is a model with a strategy; a role takes a model alone."
            raise ConfigError(f"The role {role!r} is misconfigured: {words}")
        return route

    async def check_roles(self) -> None:
        """Look every role's model up, before requests come. Of a backend that does not tell its models
        now, or not without a client's key, nothing is known until a request needs the role.

        Raises:
            ConfigError: a role names a model that no backend serves.
        """
        for role in self.settings.roles:
            try:
                await self._route_of(role, {})
            except BackendError as error:
                log.warning("the model of role %r could not be looked up: %s", role, error.message)

    async def open(self) -> None:
        """Open what outlives requests and start the supervised engines; returns before these are ready.

        Raises:
            ConfigError: the database or Redis cannot be used; nothing of them stays open.
        """
        async with AsyncExitStack() as opened:
            for part in (self.parent, self.database, self.gate, self.responses):
                if part is not None:
                    await part.open()
                    opened.push_async_callback(part.close)
            self._opened = opened.pop_all()
        await self.observers.open()
        for engine in self.mounts.engines.values():
            await engine.start()
        self._probe()
        if self.parent:
            self.parent.tell("serves")

    async def close(self) -> None:
        """Write what was used; stop the engines, close the sources and the connections."""
        try:
            await self._opened.aclose()
        finally:
            if self.cache:
                await self.cache.close()
            await ended(self._retiring)
            await ended(self._probing)
            await retire(self.mounts.engines.values(), self.sources.values())
            for session in self.sessions.values():
                await session.close()
            await self.observers.close()

    async def adopt(self, fresh: Assembly) -> None:
        """Serve with another's settings from now on. Requests that have begun end as they began: what only
        they need is closed behind the last of them, and a new engine starts when the old are gone."""
        left = Retired(self.generation, self.mounts.engines.values(), self.sources.values())
        for name in _ADOPTED:
            setattr(self, name, getattr(fresh, name))
        if self.cache:
            self.cache.identities = identities_of(self.settings.backends, self.settings.models)
        left.keep(self.mounts.engines.values(), self.sources.values())
        retiring = asyncio.create_task(left.retire())
        self._retiring.add(retiring)
        retiring.add_done_callback(self._retiring.discard)
        for engine in self.mounts.engines.values():
            await engine.start(behind=retiring if left.engines else None)
        self._probe()

    def _probe(self) -> None:
        """Look at the servers of those backends that want it."""
        for task in self._probing:
            task.cancel()
        self._probing = {
            asyncio.create_task(probe_on((each.replica for each in pool.targets), every_s, path))
            for name, (every_s, path) in self.mounts.probed.items()
            if (pool := self.mounts.backends[name].pool)
        }


def _cache(settings: Settings) -> Cache | None:
    redis = settings.cache.redis_url_env
    identities = identities_of(settings.backends, settings.models)
    return make_cache(settings.cache, secret(redis) if redis else None, identities)
