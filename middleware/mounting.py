"""From settings to mounted backends: servers, pools of servers, engines, models of our own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from veridical.middleware.backend_config import (
    HttpBackendSettings,
    LangChainBackendSettings,
    LocalBackendSettings,
    VllmBackendSettings,
)
from veridical.middleware.backends.engines import Engine, EngineProcess, EngineSpec
from veridical.middleware.backends.exchange import Sessions
from veridical.middleware.backends.local import local_engine, vllm_engine
from veridical.middleware.backends.openai_http import OpenAIBackend
from veridical.middleware.balancing.aliases import alias, several
from veridical.middleware.balancing.pool import Pool, Target
from veridical.middleware.balancing.replica import Replica
from veridical.middleware.balancing.settings import EngineSection
from veridical.middleware.config import Settings, secret
from veridical.middleware.routing import Mounted, balanced

#: Gives the engine of the backend of that name.
RunEngine = Callable[[str, EngineSpec], Engine]


def by_ourselves(name: str, spec: EngineSpec) -> Engine:
    """An engine that is this process's own."""
    return EngineProcess(spec)


class Mounts:
    """The backends by name, the models of our own, and the engines that run behind backends.

    Those of `previous` whose settings are the same are taken over as they are: an engine goes on running,
    a server stays set aside, whoever waits keeps waiting.

    Raises:
        ConfigError: a key variable, an engine, or a target of a model of ours is not there.
    """

    def __init__(
        self,
        settings: Settings,
        session: Sessions,
        *,
        forwards_credentials: bool,
        previous: Mounts | None = None,
        run: RunEngine = by_ourselves,
    ) -> None:
        self.settings, self.session, self.forwards_credentials = settings, session, forwards_credentials
        self._previous, self._run = previous, run
        self.engines: dict[str, Engine] = {}
        self.standing_in = several(settings.models, settings.backends)
        self.backends = {name: self._kept(name) or self._mount(name) for name in settings.backends}
        self.models = [alias(name, model, self.backends) for name, model in settings.models.items()]
        self._previous = None

    @property
    def probed(self) -> Mapping[str, tuple[float, str]]:
        """The backends whose servers are to be looked at: how often, and what is asked."""
        return {
            name: (each.probe_s, each.probe_path)
            for name, each in self.settings.backends.items()
            if isinstance(each, HttpBackendSettings) and each.probe_s is not None
        }

    def _kept(self, name: str) -> Mounted | None:
        """A backend as it was, if nothing of it has changed."""
        old = self._previous
        same = old and old.settings.backends.get(name) == self.settings.backends[name]
        if old is None or not same or (name in old.standing_in) != (name in self.standing_in):
            return None
        if name in old.engines:
            self.engines[name] = old.engines[name]
        return old.backends[name]

    def _engine(self, name: str, served: str, settings: LocalBackendSettings | VllmBackendSettings) -> Engine:
        """The engine of a backend: the one that runs, unless what it is started with has changed."""
        old = self._previous
        before = old.settings.backends.get(name) if old else None
        if old and isinstance(before, EngineSection) and _started_with(before) == _started_with(settings):
            return old.engines[name]
        return self._run(name, _engine_spec(served, settings))

    def _mount(self, name: str) -> Mounted:
        stands_in = name in self.standing_in
        match self.settings.backends[name]:
            case HttpBackendSettings() as http:
                return self._mount_http(name, http, stands_in)
            case LangChainBackendSettings() as chain:
                return _mount_langchain(name, chain, stands_in)
            case LocalBackendSettings() | VllmBackendSettings() as engine:
                return self._mount_engine(name, engine, stands_in)

    def _mount_http(self, name: str, settings: HttpBackendSettings, stands_in: bool) -> Mounted:
        names = _names(settings.models) if settings.models else None
        backends = [self._http_backend(url, settings) for url in settings.urls]
        stands_in = stands_in or len(backends) > 1
        if not (stands_in or settings.limits_capacity or settings.probe_s):
            return Mounted(name, backends[0], names, backends[0])
        titles = [name] if len(backends) == 1 else [f"{name}#{at + 1}" for at in range(len(backends))]
        replicas = [
            Replica(title, backend, settings, backend, has_others=stands_in or settings.probe_s is not None)
            for title, backend in zip(titles, backends, strict=True)
        ]
        weights = settings.weights or (1.0,) * len(replicas)
        pool = Pool(name, [list(map(Target, replicas, weights))], settings.balance, settings.affinity)
        pool.queue_wait_s = settings.queue_wait_s
        return balanced(pool, names)

    def _http_backend(self, url: str, settings: HttpBackendSettings) -> OpenAIBackend:
        return OpenAIBackend(
            self.session,
            _constantly(url),
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

    def _mount_engine(
        self, name: str, settings: LocalBackendSettings | VllmBackendSettings, stands_in: bool
    ) -> Mounted:
        embedded = isinstance(settings, LocalBackendSettings)  # llama.cpp
        served = name if isinstance(settings, LocalBackendSettings) else settings.served_as or name
        engine = self.engines[name] = self._engine(name, served, settings)
        backend = OpenAIBackend(
            self.session,
            lambda: engine.base_url,
            supports={"json_schema", "schema_lengths", *(() if embedded else ("n",))},
            closes_streams=embedded,
            read_timeout_s=settings.read_timeout_s,
        )
        replica = Replica(
            name,
            backend,
            settings,
            backend,
            engine.ready,
            lambda: engine.is_ready,
            stands_in,
            engine.restart,
            settings.hang_timeouts,
        )
        return balanced(Pool(name, [[Target(replica)]], queue_wait_s=settings.queue_wait_s), {served: served})


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


def _mount_langchain(name: str, settings: LangChainBackendSettings, stands_in: bool) -> Mounted:
    from veridical.middleware.backends.langchain import LangChainBackend

    backend = LangChainBackend(
        settings.model_class,
        settings.kwargs,
        supports={"json_schema"} if settings.json_schema else set(),
        refuse=settings.refuse,
        rename=settings.rename,
    )
    if not (stands_in or settings.limits_capacity):
        return Mounted(name, backend, _names(settings.models))
    replica = Replica(name, backend, settings, has_others=stands_in)
    pool = Pool(name, [[Target(replica)]], queue_wait_s=settings.queue_wait_s)
    return balanced(pool, _names(settings.models))


def _names(models: dict[str, str] | tuple[str, ...]) -> dict[str, str]:
    return models if isinstance(models, dict) else {model: model for model in models}


def _constantly(url: str) -> Callable[[], str]:
    return lambda: url


def _started_with(settings: EngineSection) -> dict[str, object]:
    """What an engine is started with: all but what we do with it."""
    return settings.model_dump(exclude=set(EngineSection.model_fields))
