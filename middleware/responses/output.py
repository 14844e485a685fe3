"""From a chat's deltas to output items, each step told as one of the Responses API's events.

A whole answer goes the same way as one delta, so that both forms hold the same items.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from veridical.strategies.errors import BackendFailed
from veridical.strategies.reply import merge_delta
from veridical.strategies.types import Delta, visible

Tell = Callable[..., None]
Cite = Callable[[str], Sequence[Mapping[str, Any]]]

#: What a chat's message says in items of their own; every other field stays on the message item.
_SAID = frozenset({"role", "content", "refusal", "tool_calls", "annotations"})
_REASONING = ("reasoning_content", "reasoning")
_PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc"}
#: Why an answer is incomplete, by the chat's finish reason.
INCOMPLETE: Mapping[str, str] = {"length": "max_output_tokens", "content_filter": "content_filter"}


@dataclass
class _Open:
    """The item that is being written: its place, its open part, and what has come of that."""

    item: dict[str, Any]
    index: int
    part: dict[str, Any] | None = None
    pieces: list[str] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)
    call: int = -1

    @property
    def where(self) -> dict[str, Any]:
        """The place that its events name."""
        place = {"item_id": self.item["id"], "output_index": self.index}
        return place if self.part is None else {**place, "content_index": len(self.item["content"]) - 1}


class Output:
    """The items of one response. `tell(type, **fields)` hears of every step, in the official order;
    `cite` gives a finished text's annotations."""

    def __init__(self, stem: str, tell: Tell, cite: Cite) -> None:
        self.items: list[dict[str, Any]] = []
        self._stem, self._tell, self._cite = stem, tell, cite
        self._open: _Open | None = None
        self._calls: set[int] = set()
        self._annotations: list[Any] = []
        self._others: dict[str, Any] = {}

    def feed(self, delta: Delta) -> None:
        """Take a piece of the assistant's message.

        Raises:
            BackendFailed: it continues a tool call that ended before.
        """
        fields = delta.fields
        thought = next((fields[name] for name in _REASONING if isinstance(fields.get(name), str)), "")
        if thought:
            self._append("reasoning", {"type": "reasoning_text", "text": ""}, thought)
        content = fields.get("content")
        text = content if isinstance(content, str) else visible(content)
        if text:
            logprobs = delta.logprobs.get("content") if isinstance(delta.logprobs, Mapping) else None
            empty = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            self._append("message", empty, text, logprobs or ())
        if isinstance(fields.get("refusal"), str) and fields["refusal"]:
            self._append("message", {"type": "refusal", "refusal": ""}, fields["refusal"])
        self._annotations += map(_flat, fields.get("annotations") or ())
        for call in fields.get("tool_calls") or ():
            self._call(call)
        merge_delta(self._others, {k: v for k, v in fields.items() if k not in (*_SAID, *_REASONING) and v})

    def finish(self, finish: str) -> None:
        """The message is complete; `finish` says why. One that says nothing is an empty message."""
        if not any(item["type"] in ("message", "function_call") for item in self.items):
            self._append(
                "message", {"type": "output_text", "text": "", "annotations": [], "logprobs": []}, ""
            )
        if self._others:
            said = next(item for item in self.items if item["type"] != "reasoning")
            said |= {name: value for name, value in self._others.items() if name not in said}
        self._close("incomplete" if finish in INCOMPLETE else "completed")

    def _begin(self, kind: str, **fields: Any) -> _Open:
        self._close("completed")
        index = len(self.items)
        name = f"{_PREFIXES[kind]}_{self._stem}_{index}"
        item = {"id": name, "type": kind, "status": "in_progress", **fields}
        self.items.append(item)
        self._open = _Open(item, index)
        self._tell("response.output_item.added", output_index=index, item=item)
        return self._open

    def _append(self, kind: str, empty: dict[str, Any], text: str, logprobs: Sequence[Any] = ()) -> None:
        """Add to the open part of this kind; without one, begin it, and an item for it where needed."""
        at = self._open
        if at is None or at.item["type"] != kind:
            own: dict[str, Any] = {"role": "assistant"} if kind == "message" else {"summary": []}
            at = self._begin(kind, **own, content=[])
        if at.part is None or at.part["type"] != empty["type"]:
            self._close_part(at)
            at.part = empty
            at.item["content"].append(empty)
            self._tell("response.content_part.added", **at.where, part=empty)
        at.pieces.append(text)
        at.logprobs += logprobs
        told = {"logprobs": list(logprobs)} if empty["type"] == "output_text" else {}
        if text:
            self._tell(f"response.{empty['type']}.delta", **at.where, delta=text, **told)

    def _call(self, piece: Mapping[str, Any]) -> None:
        number = piece.get("index", len(self._calls))
        function = piece.get("function") or {}
        at = self._open
        if at is None or at.call != number:
            if number in self._calls:
                raise BackendFailed("The backend's stream mixes the pieces of several tool calls.")
            self._calls.add(number)
            call_id = piece.get("id") or f"call_{self._stem}_{number}"
            name = str(function.get("name") or "")
            at = self._begin("function_call", call_id=call_id, name=name, arguments="")
            at.call = number
        elif function.get("name"):
            at.item["name"] = function["name"]
        if arguments := function.get("arguments"):
            at.pieces.append(str(arguments))
            self._tell("response.function_call_arguments.delta", **at.where, delta=str(arguments))

    def _close(self, status: str) -> None:
        at, self._open = self._open, None
        if at is None:
            return
        if at.item["type"] == "function_call":
            at.item["arguments"] = "".join(at.pieces)
            done = {"name": at.item["name"], "arguments": at.item["arguments"]}
            self._tell("response.function_call_arguments.done", **at.where, **done)
        self._close_part(at)
        at.item["status"] = status
        self._tell("response.output_item.done", output_index=at.index, item=at.item)

    def _close_part(self, at: _Open) -> None:
        if at.part is None:
            return
        kind, whole = at.part["type"], "".join(at.pieces)
        key = "refusal" if kind == "refusal" else "text"
        at.part[key] = whole
        told: dict[str, Any] = {key: whole}
        if kind == "output_text":
            at.part["logprobs"] = told["logprobs"] = at.logprobs
            self._annotate(at, at.part, whole)
        self._tell(f"response.{kind}.done", **at.where, **told)
        self._tell("response.content_part.done", **at.where, part=at.part)
        at.part, at.pieces, at.logprobs = None, [], []

    def _annotate(self, at: _Open, part: dict[str, Any], text: str) -> None:
        part["annotations"] = [*self._annotations, *map(_flat, self._cite(text))]
        self._annotations = []
        for index, annotation in enumerate(part["annotations"]):
            self._tell(
                "response.output_text.annotation.added",
                **at.where,
                annotation_index=index,
                annotation=annotation,
            )


def _flat(annotation: Any) -> Any:
    """A chat's annotation, whose fields stand in an object of its type's name, as the Responses API's."""
    if not isinstance(annotation, Mapping):
        return annotation
    kind = annotation.get("type")
    inner = annotation.get(kind) if isinstance(kind, str) else None
    return {"type": kind, **inner} if isinstance(inner, Mapping) else annotation
