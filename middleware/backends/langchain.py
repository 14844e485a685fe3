"""Any langchain-core chat model as a backend, named by an import string."""

from __future__ import annotations

import asyncio
import importlib
import re
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, Any, cast

import pydantic

from veridical.middleware.backends.langchain_wire import (
    DeltaWriter,
    finish_reason_of,
    to_langchain,
    to_message,
    told_usage_of,
    tool_choice,
    usage_of,
)
from veridical.middleware.config import secret
from veridical.strategies.backend import ChatRequest
from veridical.strategies.errors import (
    BackendError,
    BackendFailed,
    BackendRateLimited,
    BackendRefused,
    BackendTimeout,
    BackendUnreachable,
    ConfigError,
    UnsupportedParameter,
    VeridicalError,
    shown,
)
from veridical.strategies.reply import Ending, Reply
from veridical.strategies.types import Answer, Delta, Params, Usage

if TYPE_CHECKING:  # imported when the first request comes
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import AIMessage, BaseMessage
    from langchain_core.runnables import Runnable

#: What a client may hand to the class. A list, because keyword arguments reach further than a
#: request body: `config` steers LangChain itself, `extra_headers` and `extra_body` the provider's SDK.
# fmt: off
PASSED = frozenset({
    "frequency_penalty", "logit_bias", "logprobs", "max_completion_tokens", "max_tokens", "min_p",
    "modalities", "parallel_tool_calls", "prediction", "presence_penalty", "reasoning_effort",
    "repetition_penalty", "response_format", "seed", "service_tier", "stop", "temperature", "thinking",
    "tool_choice", "tools", "top_k", "top_logprobs", "top_p", "user", "verbosity",
})
# fmt: on
#: What we see to ourselves.
_OURS = frozenset({"model", "messages", "stream", "stream_options"})
_OPENAI_ERROR_FIELDS = ("message", "type", "param", "code")
_ENVELOPE = ("system_fingerprint", "service_tier")

Chunks = AsyncGenerator["AIMessage", None]


class LangChainBackend:
    """A chat model class and its arguments; one instance per model name, made when first asked for.

    Arguments whose name ends in `_env` name environment variables (`api_key_env = "X"` gives
    `api_key`). The model's name becomes the argument `model`, unless `kwargs` sets that. `rename`
    is for parameters that the class calls otherwise, `refuse` for those that a strategy's own
    calls leave out.

    Raises:
        ConfigError: the import string has no such form, or an environment variable is not set.
    """

    def __init__(
        self,
        model_class: str,
        kwargs: Mapping[str, Any],
        *,
        supports: set[str] | None = None,
        refuse: tuple[str, ...] = (),
        rename: Mapping[str, str] | None = None,
    ) -> None:
        if not re.fullmatch(r"[\w.]+:[\w.]+", model_class):
            raise ConfigError(f"{shown(model_class)} is no import string such as 'package.module:Class'.")
        self.supports = set() if supports is None else supports
        self._class = model_class
        self._secrets = {key[:-4]: secret(str(kwargs[key])) for key in kwargs if key.endswith("_env")}
        self._kwargs = {key: value for key, value in kwargs.items() if not key.endswith("_env")}
        self._refuse, self._rename = frozenset(refuse), dict(rename or {})
        self._models: dict[str, BaseChatModel] = {}
        self._building = asyncio.Lock()

    def adapted(self, params: Params) -> Params:
        """A strategy's own parameters without those that the model refuses."""
        return {key: value for key, value in params.items() if key not in self._refuse}

    async def chat(self, request: ChatRequest) -> Reply:
        """Ask for one answer; a stream is returned once its first piece is here.

        Raises:
            UnsupportedParameter: a parameter that cannot be carried, by name.
            InvalidRequest: a message that cannot be read.
            BackendError: the model refused, failed, timed out or cannot be reached.
            ConfigError: the class cannot be imported or made.
        """
        params = self._carried(request.params)
        model = await self._model(request.model)
        messages = to_langchain(request.messages)
        with self._errors():
            bound, kwargs = _with_tools(model, params)
            if not request.stream:
                return _reply(cast("AIMessage", await bound.ainvoke(messages, **kwargs)))
            chunks = cast("Chunks", bound.astream(messages, **kwargs))
            first = await anext(chunks, None)
        if first is None:
            raise BackendFailed(f"{self._class} sent an empty stream.")
        return Reply(self._deltas(first, chunks))

    def _carried(self, params: Params) -> dict[str, Any]:
        """The parameters as keyword arguments of the class."""
        carried: dict[str, Any] = {}
        for name, value in params.items():
            if value is None or name in _OURS or (name == "n" and value == 1):
                continue
            if name not in PASSED and name not in self._rename.values() and name not in self._rename:
                raise UnsupportedParameter(f"{shown(name)} cannot be passed to {self._class}.", param=name)
            # LangChain's own name for the newer one; ChatOpenAI turns it back.
            carried["max_tokens" if name == "max_completion_tokens" else name] = value
        if isinstance(carried.get("stop"), str):
            carried["stop"] = [carried["stop"]]
        return {self._rename.get(name, name): value for name, value in carried.items()}

    async def _model(self, name: str) -> BaseChatModel:
        async with self._building:
            if name not in self._models:  # in a thread: the import can take seconds
                self._models[name] = await asyncio.to_thread(self._made, name)
            return self._models[name]

    def _made(self, name: str) -> BaseChatModel:
        found = _imported(self._class)
        fields = getattr(found, "model_fields", {})
        # Retries are the proxy's, which knows the deadline; usage is wanted in streams too.
        ours = {"model": name, "max_retries": 0, "stream_usage": True}
        extra = {key: value for key, value in ours.items() if key == "model" or key in fields}
        if "model_name" in self._kwargs:
            del extra["model"]
        try:
            return cast("BaseChatModel", found(**{**extra, **self._kwargs, **self._secrets}))
        except pydantic.ValidationError as error:
            wrong = ", ".join(".".join(map(str, fault["loc"])) or fault["type"] for fault in error.errors())
            raise ConfigError(f"{self._class} does not take these arguments: {wrong}.") from None
        except Exception as error:  # noqa: BLE001 -- foreign code, whose words may hold a key
            raise ConfigError(f"{self._class} cannot be made ({type(error).__name__}).") from None

    async def _deltas(self, chunk: AIMessage | None, chunks: Chunks) -> AsyncGenerator[Delta | Ending, None]:
        writer, finished, usage = DeltaWriter(), False, None
        async with aclosing(chunks):
            while chunk is not None:
                finish = _finish(chunk, writer.calls_tools)
                finished = finished or finish is not None
                logprobs = chunk.response_metadata.get("logprobs")
                fields = writer.fields(chunk)
                if fields or finish or logprobs:
                    yield Delta(fields, finish, logprobs)
                # Each chunk tells of its own share.
                usage = _sum(usage, usage_of(chunk)) or told_usage_of(chunk)
                yield Ending(usage, _envelope(chunk))
                with self._errors():
                    chunk = await anext(chunks, None)
        if not finished:
            yield Delta({}, "tool_calls" if writer.calls_tools else "stop")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn whatever a provider's SDK raises into ours: by its status, else by its kind."""
        try:
            yield
        except VeridicalError:
            raise
        except Exception as error:  # noqa: BLE001 -- every SDK has its own; none gets past this line
            raise self._converted(error) from None

    def _converted(self, error: Exception) -> BackendError:
        status = _status(error)
        if status is not None:
            return self._answered(error, status)
        kinds = " ".join(kind.__name__ for kind in type(error).__mro__)
        if "Timeout" in kinds:
            return BackendTimeout(f"{self._class} did not answer in time.")
        if "Connect" in kinds:
            return BackendUnreachable(f"{self._class} cannot reach its provider.")
        if isinstance(error, TypeError) and (told := re.search(r"keyword argument '(\w+)'", str(error))):
            return BackendRefused(f"{self._class} does not take the parameter {told[1]!r}.", status=400)
        return BackendFailed(f"{self._class} failed ({type(error).__name__}).")

    def _answered(self, error: Exception, status: int) -> BackendError:
        words = f"{self._class} was answered {status}."
        # What a provider says of credentials may quote them.
        body = None if status in (401, 403) else self._body(error)
        if body and body.get("message"):
            words = str(body["message"])
        response = getattr(error, "response", None)
        retry_after = getattr(response, "headers", {}).get("retry-after")
        kind = BackendFailed if status >= 500 else BackendRateLimited if status == 429 else BackendRefused
        return kind(words, status=status, body=body, retry_after=retry_after)

    def _body(self, error: Exception) -> dict[str, Any] | None:
        """OpenAI's error fields out of what the SDK kept of the answer, our keys taken out."""
        found = getattr(error, "body", None)
        found = found.get("error", found) if isinstance(found, Mapping) else None
        if not isinstance(found, Mapping):
            return None
        return {key: self._redacted(found[key]) for key in _OPENAI_ERROR_FIELDS if key in found}

    def _redacted(self, value: Any) -> Any:
        if not isinstance(value, str):
            return value if isinstance(value, int) else None
        for each in self._secrets.values():
            value = value.replace(each, "[key]")
        return value


def _with_tools(
    model: BaseChatModel, params: dict[str, Any]
) -> tuple[Runnable[list[BaseMessage], BaseMessage], dict[str, Any]]:
    """The model with the request's tools bound to it, and the parameters that are left."""
    ours = ("tools", "tool_choice", "parallel_tool_calls")
    kwargs = {key: value for key, value in params.items() if key not in ours}
    tools, choice = params.get("tools"), params.get("tool_choice")
    if not tools or choice == "none":  # not every provider has a word for "none"
        return cast("Any", model), kwargs
    options = {} if choice is None else {"tool_choice": tool_choice(choice)}
    if "parallel_tool_calls" in params:
        options["parallel_tool_calls"] = params["parallel_tool_calls"]
    try:
        return cast("Any", model.bind_tools(tools, **options)), kwargs
    except NotImplementedError:
        raise UnsupportedParameter(f"{type(model).__name__} takes no tools.", param="tools") from None


def _reply(message: AIMessage) -> Reply:
    found = to_message(message)
    calls_tools = "tool_calls" in found
    finish = _finish(message, calls_tools) or ("tool_calls" if calls_tools else "stop")
    logprobs = message.response_metadata.get("logprobs")
    usage = usage_of(message) or told_usage_of(message)
    return Reply.of(Answer(found, finish, logprobs, usage, _envelope(message)))


def _finish(message: AIMessage, calls_tools: bool) -> str | None:
    """Why it stopped; a provider that says "stop" of a tool call is corrected."""
    finish = finish_reason_of(message)
    return "tool_calls" if finish == "stop" and calls_tools else finish


def _envelope(message: AIMessage) -> dict[str, Any]:
    found = message.response_metadata
    return {key: found[key] for key in _ENVELOPE if found.get(key)}


def _sum(one: Usage | None, other: Usage | None) -> Usage | None:
    return one + other if one and other else one or other


def _status(error: BaseException) -> int | None:
    """The HTTP status that an SDK's error carries, or the error that it was raised from."""
    for found in (error, getattr(error, "response", None), error.__cause__):
        status = getattr(found, "status_code", None)
        if isinstance(status, int) and status >= 400:
            return status
    return None


def _imported(target: str) -> Any:
    module, _, path = target.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for name in path.split("."):
            found = getattr(found, name)
    except ImportError as error:
        package = (error.name or module).partition(".")[0].replace("_", "-")
        raise ConfigError(f"{target} cannot be imported: is {package} installed?") from None
    except AttributeError:
        raise ConfigError(f"{target} cannot be imported: {module} has no {path}.") from None
    return found
