"""Between OpenAI's wire shapes and LangChain's messages, both ways."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from veridical.strategies.errors import InvalidRequest
from veridical.strategies.types import NOTHING, Message, Usage

if TYPE_CHECKING:  # the library costs a second to import: only those who use it pay
    from langchain_core.messages import AIMessage, BaseMessage

#: Each provider's word for why a model stopped, in lower case, where it is not OpenAI's own.
_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "eos": "stop",
    "finish_reason_unspecified": "stop",
    "max_tokens": "length",
    "model_length": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "safety": "content_filter",
    "refusal": "content_filter",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
}
_FINISH_KEYS = ("finish_reason", "stop_reason", "stopReason", "done_reason")


def to_langchain(messages: Sequence[Message]) -> list[BaseMessage]:
    """OpenAI messages as LangChain's: images, tool calls and tool results survive.

    Raises:
        InvalidRequest: one has no readable shape; says which, and quotes nothing of it.
    """
    from langchain_core.messages import convert_to_messages

    converted: list[BaseMessage] = []
    for at, message in enumerate(messages):
        try:
            converted += convert_to_messages([_prepared(message)])
        except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError) as error:
            raise InvalidRequest(
                f"messages[{at}] cannot be read as a chat message ({type(error).__name__}).", param="messages"
            ) from None
    return converted


def _prepared(message: Message) -> dict[str, Any]:
    """`message` as LangChain takes it: content always there, no nulls besides, no empty arguments."""
    given: dict[str, Any] = {key: value for key, value in message.items() if value is not None}
    given.setdefault("content", None)
    if calls := given.get("tool_calls"):
        given["tool_calls"] = [_with_arguments(call) for call in calls]
    return given


def _with_arguments(call: Any) -> Any:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or function.get("arguments"):
        return call
    return {**call, "function": {**function, "arguments": "{}"}}


def tool_choice(choice: Any) -> Any:
    """OpenAI's `tool_choice` in the words that every LangChain provider knows: "any", "auto", or a name."""
    if isinstance(choice, Mapping):
        function = choice.get("function")
        return function.get("name") if isinstance(function, Mapping) else dict(choice)
    return "any" if choice == "required" else choice


def to_message(message: AIMessage) -> dict[str, Any]:
    """A whole LangChain answer as OpenAI's assistant message; blocks that are no text are left out."""
    text, reasoning = _words(message)
    calls = [_call(c.get("id"), c["name"], json.dumps(c["args"])) for c in message.tool_calls]
    # Arguments that are no JSON are the model's fault, and the client's to see.
    calls += [_call(c.get("id"), c.get("name"), c.get("args")) for c in message.invalid_tool_calls]
    found: dict[str, Any] = {"role": "assistant", "content": None if calls and not text else text}
    if calls:
        found["tool_calls"] = calls
    return found | _besides(message, reasoning)


def _call(id_: str | None, name: str | None, arguments: str | None) -> dict[str, Any]:
    return {"id": id_, "type": "function", "function": {"name": name or "", "arguments": arguments or ""}}


def _besides(message: AIMessage, reasoning: str) -> dict[str, Any]:
    refusal = message.additional_kwargs.get("refusal")
    fields = {"reasoning_content": reasoning, "refusal": refusal}
    return {key: value for key, value in fields.items() if isinstance(value, str) and value}


class DeltaWriter:
    """Turns one stream's chunks into OpenAI's delta fields; numbers its tool calls from 0 in order.

    Providers number content blocks instead (a text is 0, the first call 1), or not at all.
    """

    def __init__(self) -> None:
        self._numbers: dict[Any, int] = {}
        self._begun = False

    @property
    def calls_tools(self) -> bool:
        """Whether a tool call has been seen."""
        return bool(self._numbers)

    def fields(self, chunk: AIMessage) -> dict[str, Any]:
        """The delta for this chunk; empty where it says nothing."""
        fields = self._fields(chunk)
        if fields and not self._begun:
            self._begun = True
            fields = {"role": "assistant", **fields}
        return fields

    def _fields(self, chunk: AIMessage) -> dict[str, Any]:
        if not hasattr(chunk, "tool_call_chunks"):  # a model that cannot stream gives its whole answer
            whole = to_message(chunk)
            calls: list[dict[str, Any]] = whole.pop("tool_calls", [])
            pieces = [{"index": self._number(object()), **call} for call in calls]
            return {**whole, "tool_calls": pieces} if pieces else whole
        text, reasoning = _words(chunk)
        fields: dict[str, Any] = {"content": text} if text else {}
        if pieces := [self._piece(piece) for piece in chunk.tool_call_chunks]:
            fields["tool_calls"] = pieces
        return fields | _besides(chunk, reasoning)

    def _piece(self, piece: Mapping[str, Any]) -> dict[str, Any]:
        index, id_, name, arguments = (piece.get(key) for key in ("index", "id", "name", "args"))
        known = len(self._numbers)
        key = id_ or object() if index is None else ("index", index)
        number = self._number(key)
        if number < known:  # more of a call that has begun: its name is not repeated
            return {"index": number, "function": {"arguments": arguments or ""}}
        return {"index": number, **_call(id_, name, arguments)}

    def _number(self, key: Any) -> int:
        return self._numbers.setdefault(key, len(self._numbers))


def _words(message: AIMessage) -> tuple[str, str]:
    """The visible text and the reasoning of an answer, whichever way its provider carries them."""
    aside = message.additional_kwargs.get("reasoning_content")
    aside = aside if isinstance(aside, str) else ""
    if isinstance(message.content, str):
        return message.content, aside
    text = "".join(block if isinstance(block, str) else _text(block) for block in message.content)
    thoughts = (thought for block in message.content for thought in _thoughts(block))
    return text, aside + "".join(thoughts)


def _text(block: Mapping[str, Any]) -> str:
    text = block.get("text") if block.get("type") == "text" else None
    return text if isinstance(text, str) else ""


def _thoughts(block: Any) -> Iterator[str]:
    """Reasoning in a content block: Anthropic's, LangChain's and OpenAI's, Bedrock's."""
    if not isinstance(block, Mapping):
        return
    summary = block.get("summary")
    inner = block.get("reasoning_content")
    found = [block.get("thinking"), block.get("reasoning")]
    found += [part.get("text") for part in summary or () if isinstance(part, Mapping)]
    found.append(inner.get("text") if isinstance(inner, Mapping) else None)
    yield from (thought for thought in found if isinstance(thought, str))


def usage_of(message: AIMessage) -> Usage | None:
    """The tokens that an answer (or one chunk: they add up) reports."""
    found: Mapping[str, Any] | None = message.usage_metadata
    if not found:
        return None
    read, thought = found.get("input_token_details") or {}, found.get("output_token_details") or {}
    return Usage(
        found.get("input_tokens") or 0,
        found.get("output_tokens") or 0,
        read.get("cache_read") or 0,
        thought.get("reasoning") or 0,
    )


def told_usage_of(message: AIMessage) -> Usage | None:
    """Tokens in OpenAI's own words: ChatOpenAI streams nothing else where there is a JSON schema."""
    told = message.response_metadata.get("token_usage")
    return Usage.from_wire(told) if told else None


def finish_reason_of(message: AIMessage) -> str | None:
    """Why the model stopped, in OpenAI's words; None where this chunk does not say."""
    found = message.response_metadata or NOTHING
    said = next((found[key] for key in _FINISH_KEYS if found.get(key)), None)
    if said is None:
        return None
    word = str(getattr(said, "name", said)).lower()  # some providers give an enum
    return _FINISH.get(word, word)
