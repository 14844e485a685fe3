"""Answers as OpenAI's chat completions and chunks."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from veridical.middleware.pipeline import Run, traced
from veridical.middleware.sse import DONE, event
from veridical.strategies.evidence import citations
from veridical.strategies.reply import Reply, unstreamed
from veridical.strategies.thinking import without_thinking
from veridical.strategies.types import Answer, Delta, Message, total, visible


def usage_of(run: Run) -> dict[str, Any]:
    """The tokens of every backend call of a request, as OpenAI's `usage`."""
    return total([choice.trace.usage for choice in run.choices]).to_wire()


def completion(run: Run, answers: Sequence[Answer]) -> dict[str, Any]:
    """A whole chat completion over the answers of all choices."""
    return {
        **_kept(answers),
        "id": f"chatcmpl-{run.id}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": run.request.model,
        "choices": [
            {
                "index": index,
                "message": annotated(answer.message, choice.reply),
                "logprobs": answer.logprobs,
                "finish_reason": answer.finish_reason,
            }
            for index, (choice, answer) in enumerate(zip(run.choices, said_by(run, answers), strict=True))
        ],
        "usage": usage_of(run),
        **_veridical(run),
    }


def said_by(run: Run, answers: Sequence[Answer]) -> Sequence[Answer]:
    """The answers with reasoning apart from words; `direct` leaves them as the model gave them."""
    return answers if run.direct else [without_thinking(answer) for answer in answers]


def annotated(message: Message, reply: Reply | None) -> Message:
    """The message with an annotation for each citation of the reply's evidence."""
    found = citations(visible(message.get("content")), reply.evidence) if reply and reply.evidence else []
    if not found:
        return message
    return {**message, "annotations": [*(message.get("annotations") or ()), *(c.to_wire() for c in found)]}


def _kept(answers: Sequence[Answer]) -> Mapping[str, Any]:
    return answers[0].envelope if answers else {}


def _veridical(run: Run) -> dict[str, Any]:
    report = traced(run, run.request.controls.trace)
    return {"veridical": report} if report else {}


class ChatWire:
    """One answer in the shape of chat completions."""

    def __init__(self, run: Run) -> None:
        self._run = run

    @cached_property
    def _chunks(self) -> Chunks:
        return Chunks(self._run)

    async def whole(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """The completion."""
        return completion(self._run, answers)

    def opening(self) -> bytes:
        """Nothing: a chat's stream begins with its first delta."""
        return b""

    def delta(self, index: int, delta: Delta) -> bytes:
        """The event of a piece of choice `index`; none for a piece without content."""
        return event(self._chunks.delta(index, delta)) if delta.fields else b""

    async def ending(self, finishes: Mapping[int, str]) -> bytes:
        """The last chunks, and the end mark."""
        return b"".join(map(event, self._chunks.endings(finishes))) + DONE

    def failure(self, error: Mapping[str, Any]) -> bytes:
        """The event of an answer that broke off."""
        return event({"error": error})


class Chunks:
    """Makes the chunks of one streamed answer; they share an id and a time."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._head = {
            "id": f"chatcmpl-{run.id}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": run.request.model,
        }
        self._nulls: dict[str, Any] = {"usage": None} if run.request.includes_usage else {}
        self._opened: set[int] = set()

    def delta(self, index: int, delta: Delta) -> dict[str, Any]:
        """A piece of choice `index`; its first piece names the role."""
        fields = unstreamed(delta.fields)
        if index not in self._opened:
            self._opened.add(index)
            fields = {"role": "assistant", **fields}
        return self._chunk(index, fields, None, delta.logprobs)

    def endings(self, finishes: Mapping[int, str]) -> list[dict[str, Any]]:
        """The last chunks: each choice's finish reason, then usage; the very last carries the trail."""
        chunks = [
            self._chunk(index, self._annotations(index), finish, None)
            for index, finish in sorted(finishes.items())
        ]
        if self.run.request.includes_usage:
            chunks.append({**self._head, "choices": [], "usage": usage_of(self.run)})
        first = self.run.choices[0].reply
        kept = first.answer.envelope if first else {}
        chunks[-1] = {**kept, **chunks[-1], **_veridical(self.run)}
        return chunks

    def _annotations(self, index: int) -> Message:
        reply = self.run.choices[index].reply
        if reply is None or not reply.evidence:
            return {}
        found = [citation.to_wire() for citation in citations(reply.answer.text, reply.evidence)]
        return {"annotations": found} if found else {}

    def _chunk(
        self, index: int, fields: Mapping[str, Any], finish: str | None, logprobs: Any
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": fields, "logprobs": logprobs, "finish_reason": finish}
        return {**self._head, "choices": [choice], **self._nulls}
