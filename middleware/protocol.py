"""The chat-completions request: what is ours is taken out and validated, the rest stays as it came."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson
import pydantic
from pydantic import Field

from veridical.middleware.nesting import too_deep
from veridical.strategies.errors import InvalidRequest, UnsupportedParameter, suggestion
from veridical.strategies.expression import Stage, parse_expression, read_strategy
from veridical.strategies.types import Message

STRATEGY_HEADER = "x-veridical-strategy"
#: Fields that the proxy itself answers for; everything else is a parameter of the model call.
HANDLED = frozenset({"model", "messages", "stream", "n", "strategy", "veridical"})
OWN_FIELDS = ("strategy", "veridical")


class BudgetRequest(pydantic.BaseModel):
    """Limits that a request sets for itself; each can only lower the server's."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)

    max_calls: int | None = Field(None, ge=1, description="Backend calls.")
    max_tokens: int | None = Field(None, ge=1, description="Tokens, prompt and completion, of all calls.")
    deadline_s: float | None = Field(None, gt=0, description="Seconds of wall time.")


class CacheRequest(pydantic.BaseModel):
    """What a request wants of the server's cache, beside its Cache-Control header."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)

    sampled: bool | None = Field(
        None, description="Whether draws at a temperature without a seed are kept, too; default the server's."
    )
    sample: int = Field(0, ge=0, description="Number of this draw: only draws of one number are equal.")


class Controls(pydantic.BaseModel):
    """The body's `veridical` object: everything of ours in one place, removed before forwarding."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)

    strategy: Any = Field(None, description="Expression, object {name, options}, or list of these.")
    trace: Literal["none", "summary", "full"] | None = Field(
        None, description="How much of the trail comes back in `veridical`; default summary."
    )
    progress: Literal["none", "reasoning"] = Field(
        "none", description="`reasoning` streams the steps in words as reasoning deltas."
    )
    budget: BudgetRequest = BudgetRequest.model_construct()
    cache: CacheRequest = CacheRequest.model_construct()
    on_limit: Literal["degrade", "error"] = Field(
        "degrade", description="When the budget ends: the best draft so far, or an error."
    )
    on_failure: Literal["degrade", "error"] = Field(
        "degrade", description="When a check fails: the best draft so far, or an error."
    )


#: Those of a request that has nothing of ours.
NO_CONTROLS = Controls.model_construct()


@dataclass(frozen=True, slots=True)
class ChatBody:
    """A request body, its shape checked. `asked` is the strategy it or a header names, if any."""

    body: Mapping[str, Any]
    controls: Controls
    asked: tuple[Stage, ...] | None

    @property
    def model(self) -> str:
        """The name that the client asks for."""
        return str(self.body["model"])

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation as it came."""
        return tuple(self.body["messages"])

    @property
    def stream(self) -> bool:
        """Whether the answer is to be streamed."""
        return bool(self.body.get("stream"))

    @property
    def n(self) -> int:
        """How many choices are wanted."""
        return self.body.get("n") or 1

    @property
    def params(self) -> dict[str, Any]:
        """The parameters of the model call: every field but those that the proxy answers for."""
        return {key: value for key, value in self.body.items() if key not in HANDLED}

    @property
    def measured(self) -> Mapping[str, Any]:
        """What of it costs tokens."""
        return self.body

    @property
    def includes_usage(self) -> bool:
        """Whether a stream is to end with its usage."""
        options = self.body.get("stream_options")
        return isinstance(options, Mapping) and bool(options.get("include_usage"))


def read_body(raw: bytes, strategy_header: str | None = None) -> ChatBody:
    """Read a chat-completions body.

    The strongest naming of a strategy wins: the `veridical` object, its short form `strategy`,
    then the header (the model's suffix and the configured default are the router's).

    Raises:
        InvalidRequest: it is no JSON object or a field has the wrong shape; names the field.
    """
    body = read_object(raw)
    _check_shape(body)
    return ChatBody(body, *read_controls(body, strategy_header))


def read_object(raw: bytes) -> dict[str, Any]:
    """A request body that must be a JSON object.

    Raises:
        InvalidRequest: it is none.
    """
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as wrong:
        raise InvalidRequest(f"The body is not valid JSON: {wrong.msg} at character {wrong.pos}.") from None
    if not isinstance(body, dict):
        raise InvalidRequest("The body must be a JSON object.")
    if too_deep(body, raw):
        raise InvalidRequest("The body is nested too deeply.")
    return body


def read_controls(
    body: Mapping[str, Any], strategy_header: str | None
) -> tuple[Controls, tuple[Stage, ...] | None]:
    """What of a body is ours, and the strategy that it or a header names, if any.

    Raises:
        InvalidRequest: a field of ours has the wrong shape; names it.
    """
    controls = _controls(body.get("veridical"))
    if controls.strategy is not None:
        return controls, read_strategy(controls.strategy)
    if body.get("strategy") is not None:
        return controls, read_strategy(body["strategy"])
    return controls, parse_expression(strategy_header) if strategy_header else None


def check_model(body: Mapping[str, Any]) -> None:
    """Refuse a body without a model's name.

    Raises:
        InvalidRequest: it has none.
    """
    if not isinstance(body.get("model"), str) or not body["model"]:
        raise InvalidRequest("'model' must be a non-empty string.", param="model")


def _check_shape(body: Mapping[str, Any]) -> None:
    check_model(body)
    messages, n = body.get("messages"), body.get("n")
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest("'messages' must be a non-empty array.", param="messages")
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise InvalidRequest("A message must be an object with a 'role'.", param=f"messages[{index}]")
        content = message.get("content")
        if not (content is None or isinstance(content, str) or _is_parts(content)):
            raise InvalidRequest(
                "'content' must be a string or an array of objects.", param=f"messages[{index}].content"
            )
    if not isinstance(body.get("stream"), bool | None):
        raise InvalidRequest("'stream' must be a boolean.", param="stream")
    if n is not None and (not isinstance(n, int) or isinstance(n, bool) or n < 1):
        raise InvalidRequest("'n' must be a positive integer.", param="n")
    if not isinstance(body.get("stream_options"), dict | None):
        raise InvalidRequest("'stream_options' must be an object.", param="stream_options")


_FIELDS = {"budget": BudgetRequest.model_fields, "cache": CacheRequest.model_fields}


def _is_parts(content: Any) -> bool:
    return isinstance(content, list) and all(isinstance(part, dict) for part in content)


def _controls(found: Any) -> Controls:
    if found is None:
        return NO_CONTROLS
    try:
        return Controls.model_validate(found)
    except pydantic.ValidationError as wrong:
        first = wrong.errors(include_input=False, include_url=False)[0]
        path = ".".join(["veridical", *map(str, first["loc"])])
        message = first["msg"]
        if first["type"] == "extra_forbidden":
            known = _FIELDS.get(str(first["loc"][0]), Controls.model_fields)
            message = f"unknown field.{suggestion(str(first['loc'][-1]), known)}"
        raise InvalidRequest(f"'{path}': {message}", param=path) from None


_NUMBERS: Mapping[str, tuple[float, float]] = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "max_tokens": (1, float("inf")),
    "max_completion_tokens": (1, float("inf")),
    "seed": (-(2**63), 2**63 - 1),  # draws count on from it
}


def check_n(request: ChatBody, max_n: int) -> None:
    """Refuse more choices than the server runs for one request.

    Raises:
        InvalidRequest: there are more.
    """
    if request.n > max_n:
        raise InvalidRequest(f"'n' may be at most {max_n} on this path.", param="n")


def check_for_strategy(request: ChatBody) -> None:
    """Refuse by name what cannot be honoured with a strategy, before anything is spent.

    Raises:
        UnsupportedParameter: such a field is set.
        InvalidRequest: a number is of the wrong type or out of range.
    """
    modalities = request.body.get("modalities")
    if not isinstance(modalities, list | None):
        raise InvalidRequest("'modalities' must be an array.", param="modalities")
    if request.body.get("audio") is not None or "audio" in (modalities or ()):
        raise UnsupportedParameter("Spoken answers cannot be checked: use 'direct'.", param="modalities")
    for name, (low, high) in _NUMBERS.items():
        value = request.body.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidRequest(f"'{name}' must be a number.", param=name)
        if not low <= value <= high:
            raise InvalidRequest(f"'{name}' is out of range.", param=name)
