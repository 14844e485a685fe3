"""From settings to live objects: the connection pool, the backends, the router."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp

from veridical.middleware.access.gate import Gate
from veridical.middleware.backends.engines import EngineProcess, EngineSpec
from veridical.middleware.backends.local import local_engine, vllm_engine
from veridical.middleware.backends.openai_http import OpenAIBackend
from veridical.middleware.cache.cache import make_cache
from veridical.middleware.config import (
    HttpBackendSettings,
    LangChainBackendSettings,
    LocalBackendSettings,
    Settings,
    VllmBackendSettings,
    secret,
)
from veridical.middleware.domains import domains
from veridical.middleware.errors import log
from veridical.middleware.observing.assembling import Observers
from veridical.middleware.observing.observation import joined_names
from veridical.middleware.responses.database_store import response_store
from veridical.middleware.routing import Mounted, Route, Router
from veridical.middleware.sources import sources
from veridical.middleware.state.choosing import database_for
from veridical.middleware.tools import configured_tools
from veridical.strategies.base import Strategy, no_source
from veridical.strategies.errors import BackendError, ConfigError, InvalidRequest, NotFound, shown
from veridical.strategies.pipelines import Pipelines
from veridical.strategies.registry import BUILT_IN, CATALOGUE, check_role_names, roles_used
from veridical.strategies.tools import registry as tool_registry
from veridical.strategies.tools.registry import make_tool


class Assembly:
    """Everything that serves requests; built from settings, then opened and closed once.

    Raises:
        ConfigError: a strategy, a role, a key variable or an engine that the settings name is not there.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.engines: list[EngineProcess] = []
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        self.database = database_for(settings)
        self.gate = Gate(settings, self.database) if settings.auth.required else None
        check_role_names(settings.roles)
        self.responses = response_store(settings, self.database)
        self._opened = AsyncExitStack()
        redis = settings.cache.redis_url_env
        self.cache = make_cache(settings.cache, secret(redis) if redis else None, settings.backends)
        self.sources = sources(settings.retrievers, secret)
        self.domains = domains(settings)
        self.tools = configured_tools(settings.tools, self.session, secret)
        self.pipelines = Pipelines(settings.pipelines)
        for name in self.pipelines.names:
            self._check_pipeline(name)
        self.pipelines.read(settings.default_strategy)
        self.advertised = self._advertised(settings.advertise)
        for fault in (*CATALOGUE.clashes.values(), *tool_registry.CATALOGUE.clashes.values()):
            log.warning("%s", fault)
        self.router = Router([self._mount(name) for name in settings.backends])
        self.observers = Observers(settings, self.gate, self._known_pipes())
        if metrics := self.observers.metrics:
            metrics.gauge(
                "backend_ready",
                "Whether a backend can take a request",
                ("backend",),
                lambda: {(mounted.name,): float(mounted.is_ready()) for mounted in self.router.mounted},
                over_processes="livemin",
            )

    def _known_pipes(self) -> list[str]:
        """The pipes that the settings name, by the names in them: the only ones with metrics of their own."""
        named = [*self.pipelines.names, *self.advertised, self.settings.default_strategy]
        return [joined_names(self.pipelines.read(name)) for name in named]

    def _check_pipeline(self, name: str) -> None:
        try:
            self.check_sources(self.pipelines.read(name))
            self.check_tools(self.pipelines.read(name))
        except InvalidRequest as error:
            raise ConfigError(f"Pipeline {name!r}: {error.message}") from None

    def _advertised(self, wanted: Sequence[str] | None) -> list[str]:
        """What /v1/models lists; unless told, all of ours and the pipelines, but nothing that lacks a
        source to search: it would only be refused."""
        read, names = self.pipelines.read, self.pipelines.names
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
        if pooled not in self._sessions:
            alive = {"keepalive_timeout": 30.0} if pooled else {"force_close": True}
            self._sessions[pooled] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, **alive),
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("User-Agent", "Accept"),
            )
        return self._sessions[pooled]

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
            for part in (self.database, self.gate, self.responses):
                if part is not None:
                    await part.open()
                    opened.push_async_callback(part.close)
            self._opened = opened.pop_all()
        await self.observers.open()
        for engine in self.engines:
            await engine.start()

    async def close(self) -> None:
        """Write what was used; stop the engines, close the sources and the connections."""
        try:
            await self._opened.aclose()
        finally:
            if self.cache:
                await self.cache.close()
            for engine in self.engines:
                await engine.stop()
            for source in {id(each): each for each in self.sources.values()}.values():
                await source.close()
            for session in self._sessions.values():
                await session.close()
            await self.observers.close()

    def _mount(self, name: str) -> Mounted:
        match self.settings.backends[name]:
            case HttpBackendSettings() as http:
                return self._mount_http(name, http)
            case LangChainBackendSettings() as chain:
                return _mount_langchain(name, chain)
            case LocalBackendSettings() | VllmBackendSettings() as engine:
                return self._mount_engine(name, engine)

    def _mount_http(self, name: str, settings: HttpBackendSettings) -> Mounted:
        backend = OpenAIBackend(
            self.session,
            _constantly(settings.base_url),
            api_key=secret(settings.api_key_env) if settings.api_key_env else None,
            forwards_authorization=settings.api_key_env is None and self.forwards_credentials,
            supports=_supported(settings),
            refuse=settings.refuse,
            rename=settings.rename,
            connect_timeout_s=settings.connect_timeout_s,
            read_timeout_s=settings.read_timeout_s,
            max_response_bytes=settings.max_response_bytes,
            speaks_responses=settings.responses,
        )
        return Mounted(name, backend, _names(settings.models) if settings.models else None, backend)

    def _mount_engine(self, name: str, settings: LocalBackendSettings | VllmBackendSettings) -> Mounted:
        embedded = isinstance(settings, LocalBackendSettings)  # llama.cpp
        served = name if isinstance(settings, LocalBackendSettings) else settings.served_as or name
        engine = EngineProcess(_engine_spec(served, settings))
        self.engines.append(engine)
        backend = OpenAIBackend(
            self.session,
            lambda: engine.base_url,
            supports={"json_schema", "schema_lengths", *(() if embedded else ("n",))},
            closes_streams=embedded,
        )
        return Mounted(name, backend, {served: served}, backend, engine.ready, lambda: engine.is_ready)


def _supported(settings: HttpBackendSettings) -> set[str]:
    wanted = {"json_schema": settings.json_schema, "n": settings.n and "n" not in settings.refuse}
    return {name for name, is_there in wanted.items() if is_there}


def _engine_spec(served: str, settings: LocalBackendSettings | VllmBackendSettings) -> EngineSpec:
    log_file = Path(settings.log).expanduser()
    if isinstance(settings, LocalBackendSettings):
        return local_engine(
            settings.model,
            log_file=log_file,
            alias=served,
            slots=settings.slots,
            context=settings.context,
            threads=settings.threads,
            start_timeout_s=settings.start_timeout_s,
        )
    return vllm_engine(
        settings.model,
        log_file=log_file,
        command=[word.replace("{model}", settings.model) for word in settings.command],
        args=["--served-model-name", served, *settings.args],
        env=settings.env,
        start_timeout_s=settings.start_timeout_s,
    )


def _mount_langchain(name: str, settings: LangChainBackendSettings) -> Mounted:
    from veridical.middleware.backends.langchain import LangChainBackend

    backend = LangChainBackend(
        settings.model_class,
        settings.kwargs,
        supports={"json_schema"} if settings.json_schema else set(),
        refuse=settings.refuse,
        rename=settings.rename,
    )
    return Mounted(name, backend, _names(settings.models))


def _names(models: dict[str, str] | tuple[str, ...]) -> dict[str, str]:
    return models if isinstance(models, dict) else {model: model for model in models}


def _constantly(url: str) -> Callable[[], str]:
    return lambda: url
