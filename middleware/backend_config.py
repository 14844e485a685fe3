"""How a backend is configured: any OpenAI-compatible server, an engine of ours, a langchain model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import Field

from veridical.middleware.balancing.settings import Balance, CapacitySection, EngineSection, check_weights
from veridical.middleware.section import Section


class HttpBackendSettings(CapacitySection):
    """Any OpenAI-compatible server."""

    type: Literal["http"] = Field("http", description="Kind of backend.")
    base_url: str | tuple[str, ...] = Field(
        description="The server's API root, usually ending in /v1; several for servers with the same models."
    )
    weights: tuple[float, ...] = Field((), description="One number for each server; none = all equal.")
    balance: Balance = Field("least_busy", description="How requests are shared out among several.")
    affinity: bool = Field(True, description="Whether the calls of one request keep to one server.")
    probe_s: float | None = Field(
        None, gt=0, description="Seconds between looks whether a server answers; none = requests tell."
    )
    probe_path: str = Field("/models", description="What is asked for then, below the API root.")
    api_key_env: str | None = Field(
        None, description="Environment variable with its key; without it the client's own is forwarded."
    )
    models: dict[str, str] | tuple[str, ...] = Field(
        (), description="Names to serve, or a table from our name to its; empty = ask its /v1/models."
    )
    refuse: tuple[str, ...] = Field(
        (), description="Parameters that it refuses: a strategy's own calls leave them out."
    )
    rename: dict[str, str] = Field(
        {}, description="Parameters that it calls otherwise, in a strategy's own calls."
    )
    json_schema: bool = Field(True, description="Whether it takes response_format json_schema.")
    n: bool = Field(True, description="Whether it takes n, several choices in one request.")
    responses: bool | None = Field(
        None, description="Whether it has /v1/responses itself; none = its first answer there tells."
    )
    connect_timeout_s: float = Field(10.0, gt=0, description="Seconds to wait for a connection.")
    read_timeout_s: float = Field(
        300.0, gt=0, description="Seconds without a byte before a call is given up."
    )
    max_response_bytes: int = Field(
        64_000_000, ge=1_000, description="Largest answer or SSE event that is read into memory."
    )

    @pydantic.field_validator("base_url")
    @classmethod
    def _is_url(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        urls = (value,) if isinstance(value, str) else value
        if not urls or len(set(urls)) < len(urls):
            raise ValueError("must name each server once")
        if not all(url.startswith(("http://", "https://")) for url in urls):
            raise ValueError("must begin with http:// or https://")
        return value.rstrip("/") if isinstance(value, str) else tuple(url.rstrip("/") for url in urls)

    @pydantic.model_validator(mode="after")
    def _is_consistent(self) -> Self:
        check_weights(self.weights, len(self.urls))
        if self.probe_s is not None and self.breaker_failures == 0:
            raise ValueError("'probe_s' acts through the breaker, which 'breaker_failures = 0' turns off")
        return self

    @property
    def urls(self) -> tuple[str, ...]:
        """Its servers."""
        return (self.base_url,) if isinstance(self.base_url, str) else self.base_url


class LocalBackendSettings(EngineSection):
    """The embedded engine: llama.cpp in a child process (extra `local`)."""

    type: Literal["local"] = Field("local", description="Kind of backend.")
    model: str | None = Field(
        None, description="Path of a GGUF file; none = the small one that is installed."
    )
    slots: int = Field(4, ge=1, le=64, description="Requests that the engine works on at once.")
    context: int = Field(4096, ge=512, description="Tokens of context that a request may fill.")
    threads: int | None = Field(None, ge=1, description="Threads of the engine; none = one a core.")
    log: str = Field("~/.local/state/veridical/local.log", description="File for the engine's output.")
    start_timeout_s: float = Field(180.0, gt=0, description="Seconds that the engine gets to become ready.")


class VllmBackendSettings(EngineSection):
    """A vLLM server that the proxy starts and supervises (extra `vllm`, or an environment of its own)."""

    type: Literal["vllm"] = Field("vllm", description="Kind of backend.")
    model: str = Field(description="Model folder or hub name.")
    served_as: str | None = Field(None, description="Name that clients use; none = the key of this table.")
    command: tuple[str, ...] = Field(
        (), description="Command that starts it, {model} and {port} filled in; none = vllm serve MODEL."
    )
    args: tuple[str, ...] = Field((), description="Further arguments.")
    env: dict[str, str] = Field({}, description="Environment variables to set for it.")
    log: str = Field("~/.local/state/veridical/vllm.log", description="File for the engine's output.")
    start_timeout_s: float = Field(600.0, gt=0, description="Seconds that the engine gets to become ready.")


class LangChainBackendSettings(CapacitySection):
    """Any langchain-core chat model, by import string."""

    type: Literal["langchain"] = Field("langchain", description="Kind of backend.")
    model_class: str = Field(description="Import string, such as langchain_anthropic:ChatAnthropic.")
    kwargs: dict[str, Any] = Field(
        {}, description="Arguments of the class; NAME_env gives NAME from an environment variable."
    )
    models: dict[str, str] | tuple[str, ...] = Field(
        description="Names to serve, or a table from our name to the class's `model` argument."
    )
    json_schema: bool = Field(False, description="Whether it takes response_format json_schema.")
    refuse: tuple[str, ...] = Field((), description="Parameters that a strategy's own calls leave out.")
    rename: dict[str, str] = Field({}, description="Parameters that it calls otherwise.")


BackendSettings = Annotated[
    HttpBackendSettings | LocalBackendSettings | VllmBackendSettings | LangChainBackendSettings,
    Field(discriminator="type"),
]

BACKEND_KINDS: Mapping[str, type[Section]] = {
    "http": HttpBackendSettings,
    "local": LocalBackendSettings,
    "vllm": VllmBackendSettings,
    "langchain": LangChainBackendSettings,
}
