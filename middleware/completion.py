"""Answers as OpenAI's chat completions and chunks, and the separation of reasoning from words."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from veridical.middleware.pipeline import Run, traced
from veridical.strategies.evidence import citations
from veridical.strategies.reply import Reply, rewritten, unstreamed
from veridical.strategies.types import Answer, Delta, Message, Usage, visible


def usage_of(run: Run) -> dict[str, Any]:
    """The tokens of every backend call of a request, as OpenAI's `usage`."""
    return sum((choice.trace.usage for choice in run.choices), Usage()).to_wire()


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
            for index, (choice, answer) in enumerate(zip(run.choices, _said_by(run, answers), strict=True))
        ],
        "usage": usage_of(run),
        **_veridical(run),
    }


def _said_by(run: Run, answers: Sequence[Answer]) -> Sequence[Answer]:
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

    def progress(self, index: int, words: str) -> dict[str, Any]:
        """A step in words, as reasoning: under both names in use."""
        return self.delta(index, Delta({"reasoning_content": words + "\n", "reasoning": words + "\n"}))

    def endings(self, finishes: Mapping[int, str]) -> list[dict[str, Any]]:
        """The last chunks: each choice's finish reason, then usage; the very last carries the trail."""
        chunks = [
            self._chunk(index, self._annotations(index), finish, None)
            for index, finish in sorted(finishes.items())
        ]
        if self.run.request.includes_usage:
            chunks.append({**self._head, "choices": [], "usage": usage_of(self.run)})
        chunks[-1] = {**chunks[-1], **_veridical(self.run)}
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


OPEN, CLOSE = "<think>", "</think>"


def without_thinking(answer: Answer) -> Answer:
    """The answer with a leading <think> block moved from its words to `reasoning_content`."""
    content = answer.message.get("content")
    if not isinstance(content, str) or content == answer.text:
        return answer
    moved = rewritten(answer, answer.text)
    if answer.message.get("reasoning_content"):
        return moved
    thinking = content[: len(content) - len(answer.text)].replace(OPEN, "").replace(CLOSE, "").strip()
    return replace(moved, message={**moved.message, "reasoning_content": thinking})


def begun_unseen(answer: Answer) -> bool:
    """Whether the chat template opened the reasoning block: the words hold its end tag alone."""
    content = answer.message.get("content")
    return isinstance(content, str) and CLOSE in content and OPEN not in content


async def without_thinking_live(
    deltas: AsyncGenerator[Delta, None], begun: Callable[[], bool] = lambda: False
) -> AsyncIterator[Delta]:
    """The same on a stream, wherever the network cut the tags.

    `begun`, asked at the first delta, tells whether this model's words start inside the block.
    """
    splitter: _Splitter | None = None
    async for delta in deltas:
        splitter = splitter or _Splitter(begun=begun())
        if splitter.speaking or not delta.text:
            yield delta
            continue
        first, *more = splitter.feed(delta.text) or [{}]
        rest = {key: value for key, value in delta.fields.items() if key != "content"}
        # Log-probabilities stay with words of which nothing was cut off.
        whole = first.get("content") == delta.text
        yield Delta({**rest, **first}, delta.finish_reason, delta.logprobs if whole else None)
        for piece in more:
            yield Delta(piece)
    for piece in splitter.end() if splitter else ():
        yield Delta(piece)


class _Splitter:
    """Tells a leading reasoning block from the words behind it.

    Text is held back until it is known not to open a block; inside the block all but a possible
    beginning of the end tag goes out as reasoning. Where the block is only thought to have `begun`
    ahead of the text, all is held until its end tag.
    """

    def __init__(self, *, begun: bool = False) -> None:
        self.speaking = False
        self._begun = begun
        self._held = ""
        self._thinking = False
        self._thought = False

    def feed(self, text: str) -> list[dict[str, str]]:
        """The message fields that are certain once `text` has come."""
        if self.speaking:
            return [{"content": text}]
        self._held += text
        if self._begun:
            if CLOSE not in self._held:
                return []
            self._begun, self._held = False, OPEN + self._held.removeprefix(OPEN)
        if self._thinking:
            return self._inside()
        start = self._held.lstrip()
        if not self._thought and len(start) < len(OPEN) and OPEN.startswith(start):
            return []
        if not self._thought and start.startswith(OPEN):
            self._thinking, self._held = True, start[len(OPEN) :]
            return self._inside()
        if self._thought and not start:
            return []
        self.speaking = True
        return [{"content": start if self._thought else self._held}]

    def _inside(self) -> list[dict[str, str]]:
        inside, closed, words = self._held.partition(CLOSE)
        if closed:
            self._thinking, self._thought, self._held = False, True, ""
            said = self.feed(words) if words else []
            return [*_reasoning(inside), *said]
        sure = max(0, len(inside) - len(CLOSE) + 1)
        self._held = inside[sure:]
        return _reasoning(inside[:sure])

    def end(self) -> list[dict[str, str]]:
        """What was still held back when the stream ended."""
        if self.speaking or not self._held or (self._thought and not self._held.strip()):
            return []
        return _reasoning(self._held) if self._thinking else [{"content": self._held}]


def _reasoning(text: str) -> list[dict[str, str]]:
    return [{"reasoning_content": text, "reasoning": text}] if text else []
