"""The configuration: one frozen `Settings`, read once from veridical.toml, the environment and flags.

Unknown keys are errors that name the nearest key. Secrets are given by the *name* of an
environment variable and are read when the backend that needs one is built.
"""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from veridical.middleware.backend_config import BACKEND_KINDS, BackendSettings, LocalBackendSettings
from veridical.middleware.balancing.settings import ModelSettings
from veridical.middleware.cache.settings import CacheSettings
from veridical.middleware.observing.settings import ObservabilitySettings
from veridical.middleware.retriever_config import RETRIEVER_KINDS, RetrieverSettings
from veridical.middleware.section import Section
from veridical.strategies.budget import Limits
from veridical.strategies.errors import ConfigError, suggestion

#: These belong to clients (inspect_ai's `openai-api/veridical/…` provider) or to other commands.
CLIENT_VARIABLES = frozenset({"VERIDICAL_BASE_URL", "VERIDICAL_API_KEY", "VERIDICAL_DATA"})
#: A variable so named holds the path of a file with the secret, in the place of the secret.
FILE_SUFFIX = "_FILE"
#: Short names for what is set most often, beside the general VERIDICAL_SECTION_KEY.
SHORT_VARIABLES: Mapping[str, tuple[str, ...]] = {
    "VERIDICAL_LOCAL_MODEL": ("backends", "local", "model"),
    "VERIDICAL_HOST": ("server", "host"),
    "VERIDICAL_PORT": ("server", "port"),
}


class ServerSettings(Section):
    """How the proxy listens and answers."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    max_body_bytes: int = Field(20_000_000, ge=1_000, description="Largest request body, in bytes.")
    max_head_bytes: int = Field(64_000, ge=1_000, description="Largest request line and headers, in bytes.")
    max_connections: int = Field(4096, ge=1, description="Clients' connections at once; others get 503.")
    receive_timeout_s: float = Field(
        30.0,
        gt=0,
        description="Seconds in which a request must have come; a body gets 1 more for each 10 kB.",
    )
    send_timeout_s: float = Field(
        60.0, gt=0, description="Seconds for which a client may read nothing of what is sent to it."
    )
    heartbeat_s: float = Field(
        5.0, gt=0, le=300, description="Seconds between SSE comments while a stream has nothing to say."
    )
    max_n: int = Field(16, ge=1, le=128, description="Largest `n` with a strategy; each choice is a run.")
    drain_s: float = Field(
        0.0, ge=0, description="Seconds between SIGTERM, when /ready turns 503, and the end of listening."
    )
    shutdown_s: float = Field(30.0, ge=0, description="Seconds that running requests get after that.")
    workers: int = Field(1, ge=1, le=256, description="Processes that serve; they share limits and engines.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level to log.")
    insecure: bool = Field(False, description="Listen on another address than loopback without keys.")


class BudgetSettings(Section):
    """What one request may spend. A request can lower these for itself, never raise them."""

    max_calls: int = Field(Limits.max_calls, ge=1, description="Backend calls.")
    max_tokens: int = Field(
        Limits.max_tokens, ge=1, description="Tokens, prompt and completion, of all calls."
    )
    deadline_s: float = Field(Limits.deadline_s, gt=0, description="Seconds of wall time.")


class AuthSettings(Section):
    """Who may use the proxy; without any key it is open to all who reach it."""

    client_keys_env: tuple[str, ...] = Field(
        (), description="Environment variables that each hold one client key, without limits."
    )
    keys: bool = Field(False, description="Let in the keys of `veridical keys`; keep their limits and usage.")
    refresh_s: float = Field(2.0, gt=0, le=300, description="Seconds between looks for new and revoked keys.")

    @property
    def required(self) -> bool:
        """Whether a client needs a key."""
        return self.keys or bool(self.client_keys_env)


class StateSettings(Section):
    """Where keys, usage and responses are kept, and limits shared; opened only where they are used."""

    path: str = Field("~/.local/state/veridical/state.sqlite", description="SQLite file.")
    database_url_env: str | None = Field(
        None, description="Environment variable with a postgresql:// URL, in the place of the file."
    )
    redis_url_env: str | None = Field(
        None, description="Environment variable with a redis:// URL: limits shared by several replicas."
    )
    flush_s: float = Field(1.0, gt=0, le=300, description="Seconds between writes of usage.")

    @property
    def chosen(self) -> bool:
        """Whether a place for the state was configured: not just left at its default."""
        return "path" in self.model_fields_set or self.database_url_env is not None


class ResponsesSettings(Section):
    """Where, and how long, the Responses API's responses are kept."""

    store: Literal["auto", "memory", "database"] = Field(
        "auto",
        description="This process's memory or the state's database; auto = the latter where there is one.",
    )
    max_bytes: int = Field(64_000_000, ge=0, description="Most that is kept; the oldest leave; 0 keeps none.")
    ttl_s: float = Field(86_400.0, gt=0, description="Seconds that a response is kept.")


class DomainSettings(Section):
    """A field of knowledge, for strategies that choose their sources by the question (cok)."""

    description: str = Field(min_length=1, description="What it covers, in words for the model that chooses.")
    sources: tuple[str, ...] = Field(min_length=1, description="Retrievers that hold it, by name.")


class PythonToolSettings(Section):
    """The sandbox for programs that a model writes (extra `python-tool`)."""

    type: Literal["python"] = Field("python", description="Kind of tool.")
    seconds: float = Field(1.0, gt=0, le=60, description="Seconds that a program may run.")
    memory_mb: int = Field(64, ge=8, le=4096, description="Megabytes that a program's values may take.")
    output_chars: int = Field(2000, ge=100, le=100_000, description="Characters that it may print.")
    processes: int = Field(4, ge=1, le=64, description="Programs that run at once; others wait.")


class ToxicityToolSettings(Section):
    """The offline classifier (extra `toxicity`)."""

    type: Literal["toxicity"] = Field("toxicity", description="Kind of tool.")
    threshold: float = Field(0.3, gt=0, lt=1, description="Score under which a text is good enough.")


class ScoringToolSettings(Section):
    """A scoring service on the net: Perspective's JSON, or OpenAI's moderations."""

    type: Literal["scoring"] = Field("scoring", description="Kind of tool.")
    url: str = Field(description="Scoring endpoint. It gets the text of answers.")
    api: Literal["perspective", "moderations"] = Field("perspective", description="What it speaks.")
    api_key_env: str | None = Field(None, description="Environment variable with its key.")
    threshold: float = Field(0.1, gt=0, lt=1, description="Score under which a text is good enough.")
    timeout_s: float = Field(20.0, gt=0, description="Seconds that a score may take.")

    @pydantic.field_validator("url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        return value


ToolSettings = Annotated[
    PythonToolSettings | ToxicityToolSettings | ScoringToolSettings, Field(discriminator="type")
]


class Settings(Section):
    """Everything that can be configured."""

    default_strategy: str = Field("direct", description="What a bare model name gets.")
    advertise: tuple[str, ...] | None = Field(
        None, description="Strategies that /v1/models lists with each model; none = all that are built in."
    )
    passthrough: tuple[str, ...] = Field(
        ("*",),
        description="Paths under /v1 that go to a backend as they are, by pattern, such as audio/*.",
    )
    # Constructed, not validated: a section's validator is built with the whole, and only once.
    server: ServerSettings = ServerSettings.model_construct()
    budget: BudgetSettings = BudgetSettings.model_construct()
    auth: AuthSettings = AuthSettings.model_construct()
    state: StateSettings = StateSettings.model_construct()
    responses: ResponsesSettings = ResponsesSettings.model_construct()
    observability: ObservabilitySettings = ObservabilitySettings.model_construct()
    cache: CacheSettings = CacheSettings.model_construct()
    roles: dict[str, str] = Field(
        {},
        description="Models for roles (generator, verifier, examiner, critic, judge, agent1, …); "
        "others use the request's.",
    )
    pipelines: dict[str, str] = Field(
        {}, description="Strategy expressions by the name under which they are served."
    )
    backends: dict[str, BackendSettings] = Field(
        default_factory=lambda: dict[str, BackendSettings](local=LocalBackendSettings()),
        description="Backends by name.",
    )
    models: dict[str, ModelSettings] = Field(
        {}, description="Models of our own by name, each shared out among models of backends."
    )
    retrievers: dict[str, RetrieverSettings] = Field(
        {}, description="Sources of evidence by name; the first is also default, if none is called that."
    )
    domains: dict[str, DomainSettings] = Field(
        {}, description="Fields of knowledge by name; none = one, with every source."
    )
    tools: dict[str, ToolSettings] = Field(
        {}, description="Tools by name, beside those that need no settings."
    )

    @property
    def keeps_responses_in_database(self) -> bool:
        """Whether the Responses API's responses go into the state's database."""
        where = self.responses.store
        shared = self.auth.keys or self.state.chosen or self.server.workers > 1
        return where == "database" or (where == "auto" and shared)

    @cached_property
    def limits(self) -> Limits:
        """The budget as the strategies know it."""
        return Limits(self.budget.max_calls, self.budget.max_tokens, self.budget.deadline_s)


def load_settings(
    path: Path | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Settings:
    """Read the settings: file, then environment, then `overrides` (flags), each over the last.

    Without `path`, veridical.toml in the working directory is read if it is there.

    Raises:
        ConfigError: the file is missing or no TOML, a key is unknown, a value does not fit.
    """
    environment = os.environ if environment is None else environment
    chosen = path or (Path("veridical.toml") if Path("veridical.toml").is_file() else None)
    values = _read_toml(chosen) if chosen else {}
    if overrides and "backends" in overrides:  # a backend named by a flag stands alone
        values["backends"], values["models"] = {}, {}
    _merge(values, _from_environment(environment, values))
    _merge(values, overrides or {})
    if overrides and "retrievers" in overrides:
        values["retrievers"] = _flagged_first(values["retrievers"], list(overrides["retrievers"]))
    backends = values.get("backends")
    for name, backend in backends.items() if isinstance(backends, dict) else ():
        if isinstance(backend, dict) and "type" not in backend:
            backend["type"] = "local" if name == "local" else "http"
    try:
        return Settings.model_validate(values)
    except pydantic.ValidationError as wrong:
        where = f"{chosen}: " if chosen else ""
        raise ConfigError(where + "; ".join(_explained(error) for error in wrong.errors())) from None


def secret(variable: str) -> str:
    """The secret in an environment variable, or in the file that VARIABLE_FILE names, which is how
    containers and systemd hand secrets over.

    Raises:
        ConfigError: it is not set, or its file cannot be read; names the variable, never a value.
    """
    value = os.environ.get(variable, "").strip() or _in_file(f"{variable}{FILE_SUFFIX}")
    if not value:
        raise ConfigError(f"The environment variable {variable} is not set, and the configuration needs it.")
    return value


def _in_file(variable: str) -> str:
    file = os.environ.get(variable, "").strip()
    try:
        return Path(file).read_text(encoding="utf-8").strip() if file else ""
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise ConfigError(f"The file that {variable} names cannot be read: {why}.") from None


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"Cannot read {path}: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}.") from None


def _merge(values: dict[str, Any], over: Mapping[str, Any]) -> None:
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(values.get(key), dict):
            _merge(values[key], value)
        else:
            values[key] = dict(value) if isinstance(value, Mapping) else value


def _flagged_first(retrievers: dict[str, Any], flagged: list[str]) -> dict[str, Any]:
    """The sources with those named by flags first, so that they are the default: fused, if several.

    A source that the file itself calls `default` stays that.
    """
    ordered = {name: retrievers[name] for name in flagged} | retrievers
    if len(flagged) > 1 and "default" not in retrievers:
        ordered["default"] = {"type": "hybrid", "sources": flagged}
    return ordered


def _from_environment(environment: Mapping[str, str], values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings from VERIDICAL_* variables: the short names, and VERIDICAL_SECTION_KEY."""
    known = {**SHORT_VARIABLES, **{_variable(path): path for path in setting_paths()}}
    named = {*_texts(values), *(environment[name] for name in known.keys() & environment.keys())}
    named_by_config = {f"{text}{end}" for text in named for end in ("", FILE_SUFFIX)}
    found: dict[str, Any] = {}
    backends = values.get("backends", {"local": {}})
    has_local = isinstance(backends, Mapping) and "local" in backends
    for name in sorted(n for n in environment if n.startswith("VERIDICAL_")):
        if name == "VERIDICAL_LOCAL_MODEL" and not has_local:
            continue  # it names the embedded engine's model; it does not add that engine
        if name in known:
            _put(found, known[name], environment[name])
        elif name not in CLIENT_VARIABLES | named_by_config | {"VERIDICAL_CONFIG"}:
            print(f"veridical: {name} is no setting.{suggestion(name, known)}", file=sys.stderr)  # noqa: T201
    return found


def _put(found: dict[str, Any], path: tuple[str, ...], value: str) -> None:
    *parents, key = path
    for parent in parents:
        found = found.setdefault(parent, {})
    found[key] = value


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def _variable(path: tuple[str, ...]) -> str:
    return "_".join(("VERIDICAL", *path)).upper()


def setting_paths() -> list[tuple[str, ...]]:
    """Every scalar setting outside the backends, as a path of keys."""
    sections: dict[str, type[Section]] = {
        "server": ServerSettings,
        "budget": BudgetSettings,
        "auth": AuthSettings,
        "state": StateSettings,
        "responses": ResponsesSettings,
        "observability": ObservabilitySettings,
        "cache": CacheSettings,
    }
    return [
        ("default_strategy",),
        *(
            (name, key)
            for name, section in sections.items()
            for key, field in section.model_fields.items()
            if not isinstance(field.default, tuple)
        ),
    ]


def _explained(error: Any) -> str:
    """One validation error in words; an unknown key gets its nearest neighbours."""
    path = [str(part) for part in error["loc"]]
    if path[:1] in (["backends"], ["retrievers"], ["tools"]):
        path[2:3] = []  # the kind, which is no key
    where = ".".join(path)
    if error["type"] == "extra_forbidden":
        return f"unknown key {where!r}.{suggestion(path[-1], _siblings(error['loc']))}"
    return f"{where or 'the file'}: {error['msg']}"


def _siblings(location: tuple[Any, ...]) -> list[str]:
    """The keys that were possible where an unknown one stands."""
    match location[:-1]:
        case ():
            return list(Settings.model_fields)
        case ("backends" | "retrievers" | "tools" as table, _, kind):
            return list(_KINDS[table][kind].model_fields)
        case ("domains", _):
            return list(DomainSettings.model_fields)
        case ("models", _):
            return list(ModelSettings.model_fields)
        case (section, *_):
            found = Settings.model_fields[section].annotation
            return list(getattr(found, "model_fields", {}))
    return []


_KINDS: Mapping[str, Mapping[str, type[Section]]] = {
    "backends": BACKEND_KINDS,
    "retrievers": RETRIEVER_KINDS,
    "tools": {
        "python": PythonToolSettings,
        "toxicity": ToxicityToolSettings,
        "scoring": ScoringToolSettings,
    },
}
