"""Items of the Responses API as chat messages. What a chat has no place for is refused by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from veridical.strategies.errors import InvalidRequest, UnsupportedParameter, shown
from veridical.strategies.types import Message

Item = Mapping[str, Any]

#: Fields of a text part that a chat's text part has no use for.
_TEXT_FIELDS = frozenset({"type", "text", "annotations", "logprobs"})
#: Fields of a message item that only the Responses API knows; others go on.
_MESSAGE_FIELDS = frozenset({"type", "id", "status", "role", "content", "phase"})
_ROLES = frozenset({"user", "assistant", "system", "developer"})


def input_items(given: Any) -> list[Item]:
    """A request's `input` as items: a string is one user message, a message without `type` gets it.

    Raises:
        InvalidRequest: it is neither a string nor an array of objects.
    """
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": given}]
    if not isinstance(given, list):
        raise InvalidRequest("'input' must be a string or an array of items.", param="input")
    for index, item in enumerate(given):
        if not isinstance(item, dict):
            raise InvalidRequest("An item must be an object.", param=f"input[{index}]")
    return [item if "type" in item else {"type": "message", **item} for item in given]


def messages_of(items: Sequence[Item], *, known: int = 0) -> list[Message]:
    """The chat that these items are; the first `known` come from the store, not from this request.

    Function calls join the assistant's message before them. Reasoning of the turn that is under way
    stays with its calls, as models that call tools between thoughts expect; reasoning of earlier
    turns is no part of a chat.

    Raises:
        UnsupportedParameter: an item, or a part of one, has no place in a chat; names it.
        InvalidRequest: an item has the wrong shape; names it.
    """
    talk = _Talk()
    for index, item in enumerate(items):
        talk.add(item, f"input[{index - known}]")
    return list(talk.messages)


class _Talk:
    """A chat under construction."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self._reasoning = ""

    def add(self, item: Item, path: str) -> None:
        kind = item.get("type")
        adding: Mapping[Any, Callable[[Item, str], None]] = {
            "message": self._message,
            "function_call": self._call,
            "function_call_output": self._result,
            "reasoning": self._think,
        }
        if not isinstance(kind, str) or kind not in adding:
            words = f"Items of type {shown(str(kind))} have no place in a chat with this backend."
            raise UnsupportedParameter(words, param=f"{path}.type")
        adding[kind](item, path)

    def _message(self, item: Item, path: str) -> None:
        role = item.get("role")
        if not isinstance(role, str) or role not in _ROLES:
            raise InvalidRequest(f"'role' must be one of {', '.join(sorted(_ROLES))}.", param=f"{path}.role")
        if role == "user":
            self._reasoning = ""
            for message in self.messages:
                message.pop("reasoning_content", None)
        others = {key: value for key, value in item.items() if key not in _MESSAGE_FIELDS}
        content = _content(item.get("content"), f"{path}.content")
        self.messages.append({"role": role, "content": content, **others})

    def _call(self, item: Item, path: str) -> None:
        _only(item, path, "call_id", "name", "arguments")
        for name in ("call_id", "name", "arguments"):
            _text(item.get(name), f"{path}.{name}")
        if not self.messages or self.messages[-1]["role"] != "assistant":
            self.messages.append({"role": "assistant", "content": None})
        message = self.messages[-1]
        if self._reasoning:
            message["reasoning_content"], self._reasoning = self._reasoning, ""
        function = {"name": item["name"], "arguments": item["arguments"]}
        call = {"id": item["call_id"], "type": "function", "function": function}
        message.setdefault("tool_calls", []).append(call)

    def _result(self, item: Item, path: str) -> None:
        _only(item, path, "call_id", "output")
        call = _text(item.get("call_id"), f"{path}.call_id")
        content = _content(item.get("output"), f"{path}.output", only_text=True)
        self.messages.append({"role": "tool", "tool_call_id": call, "content": content})

    def _think(self, item: Item, path: str) -> None:
        parts = item.get("content") or item.get("summary") or []
        if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
            raise InvalidRequest("'content' must be an array of objects.", param=f"{path}.content")
        if not parts and item.get("encrypted_content"):
            words = "Reasoning that another server has encrypted cannot be read here."
            raise UnsupportedParameter(words, param=f"{path}.encrypted_content")
        self._reasoning = "".join(_text(part.get("text"), f"{path}.content") for part in parts)


def _only(item: Item, path: str, *known: str) -> None:
    """Refuse fields that say something for which a chat has no place."""
    for name, value in item.items():
        if value is not None and name not in (*known, "type", "id", "status"):
            raise UnsupportedParameter(f"A chat has no place for {shown(name)}.", param=f"{path}.{name}")


def _text(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(f"{path!r} must be a string.", param=path)
    return value


def _content(content: Any, path: str, *, only_text: bool = False) -> Any:
    """Content as a chat has it: one plain text part is a string, the form that every server reads."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidRequest(f"{path!r} must be a string or an array of parts.", param=path)
    parts = [_part(part, f"{path}[{index}]") for index, part in enumerate(content)]
    for index, part in enumerate(parts):
        if only_text and part["type"] != "text":
            raise UnsupportedParameter(
                "A tool's result in a chat is text only.", param=f"{path}[{index}].type"
            )
    if len(parts) == 1 and parts[0].keys() == {"type", "text"}:
        return parts[0]["text"]
    return parts


def _part(part: Any, path: str) -> dict[str, Any]:
    if not isinstance(part, dict):
        raise InvalidRequest("A part of a message must be an object.", param=path)
    match part.get("type"):
        case "input_text" | "output_text":
            others = {key: value for key, value in part.items() if key not in _TEXT_FIELDS}
            return {"type": "text", "text": _text(part.get("text"), f"{path}.text"), **others}
        case "refusal":
            return {"type": "refusal", "refusal": _text(part.get("refusal"), f"{path}.refusal")}
        case "input_image":
            return _image(part, path)
        case "input_file":
            if part.get("file_url"):
                raise UnsupportedParameter("A chat takes no file by its URL.", param=f"{path}.file_url")
            names = ("file_data", "file_id", "filename")
            return {"type": "file", "file": {name: part[name] for name in names if part.get(name)}}
        case "input_audio":
            return {"type": "input_audio", "input_audio": part.get("input_audio")}
        case kind:
            words = f"Parts of type {shown(str(kind))} have no place in a chat."
            raise UnsupportedParameter(words, param=f"{path}.type")


def _image(part: Item, path: str) -> dict[str, Any]:
    if part.get("file_id"):
        raise UnsupportedParameter("A chat takes an image by its URL only.", param=f"{path}.file_id")
    image = {"url": _text(part.get("image_url"), f"{path}.image_url")}
    if part.get("detail") is not None:
        image["detail"] = part["detail"]
    return {"type": "image_url", "image_url": image}


def listed(items: Iterable[Item], stem: str) -> list[Item]:
    """Input items as they are kept and told: each with an id, and text as a part.

    `stem` makes the ids; an item that brought one keeps it.
    """
    return [_listed(item, f"{stem}_in{index}") for index, item in enumerate(items)]


def _listed(item: Item, name: str) -> Item:
    kept = {"id": f"{_PREFIXES.get(item['type'], 'item')}_{name}", **item}
    if item["type"] == "message" and isinstance(item.get("content"), str):
        kind = "output_text" if item.get("role") == "assistant" else "input_text"
        empty: dict[str, Any] = {"annotations": []} if kind == "output_text" else {}
        kept["content"] = [{"type": kind, "text": item["content"], **empty}]
    if item["type"] in ("message", "function_call", "function_call_output"):
        kept.setdefault("status", "completed")
    return kept


_PREFIXES = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}
