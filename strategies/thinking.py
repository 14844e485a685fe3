"""Reasoning apart from words: a leading <think> block is never part of what is checked or said."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable
from dataclasses import replace

from veridical.strategies.reply import rewritten
from veridical.strategies.types import Answer, Delta

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
    deltas: AsyncIterable[Delta], begun: Callable[[], bool] = lambda: False
) -> AsyncIterator[Delta]:
    """The same on a stream, wherever the network cut the tags.

    `begun`, asked at the first delta, tells whether this model's words start inside the block.
    """
    splitter: ThinkingSplitter | None = None
    async for delta in deltas:
        splitter = splitter or ThinkingSplitter(begun=begun())
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


class ThinkingSplitter:
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
