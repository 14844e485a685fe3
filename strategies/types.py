"""The values that travel between strategies, backends and the wire. All are frozen."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum, auto
from types import MappingProxyType
from typing import Any, Self

#: One chat message or one set of request parameters, as JSON: unknown fields survive untouched.
Message = Mapping[str, Any]
Params = Mapping[str, Any]

NOTHING: Mapping[str, Any] = MappingProxyType({})


class Verdict(StrEnum):
    """What the evidence says of a claim: FEVER's labels (Thorne et al., 2018)."""

    SUPPORTED = auto()
    REFUTED = auto()
    NOT_ENOUGH_INFO = auto()


class Status(StrEnum):
    """How an answer came about: `verified` = rewritten from its checks, `unchanged` = the
    draft stands word for word, `abstained` = a check rejected the draft and the answer says so
    instead, `degraded` = a check or a limit failed and the best draft is returned, `direct` = no
    strategy ran."""

    VERIFIED = auto()
    UNCHANGED = auto()
    ABSTAINED = auto()
    DEGRADED = auto()
    DIRECT = auto()


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one or more backend calls, as the backend counted them.

    `cached_tokens` are the prompt tokens that a prefix cache served, `reasoning_tokens` the
    completion tokens spent on hidden reasoning; both are parts of their totals.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and completion tokens together."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_tokens + other.cached_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
        )

    @classmethod
    def from_wire(cls, usage: Any) -> Self:
        """Read OpenAI's `usage` object; a malformed part counts as 0."""
        found = usage if isinstance(usage, dict) else NOTHING
        prompt, completion = found.get("prompt_tokens_details"), found.get("completion_tokens_details")
        return cls(
            _count(found, "prompt_tokens"),
            _count(found, "completion_tokens"),
            _count(prompt, "cached_tokens"),
            _count(completion, "reasoning_tokens"),
        )

    def to_wire(self) -> dict[str, Any]:
        """OpenAI's `usage` object; the details stand only where they say something."""
        wire: dict[str, Any] = {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.total_tokens,
        }
        if self.cached_tokens:
            wire["prompt_tokens_details"] = {"cached_tokens": self.cached_tokens}
        if self.reasoning_tokens:
            wire["completion_tokens_details"] = {"reasoning_tokens": self.reasoning_tokens}
        return wire


def total(usages: Sequence[Usage]) -> Usage:
    """The tokens of all of them."""
    return usages[0] if len(usages) == 1 else sum(usages, Usage())


#: No call has so many tokens: a count over it is malformed.
_TOO_MANY = 10**12


def _count(found: Any, key: str) -> int:
    value = found.get(key) if isinstance(found, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < _TOO_MANY else 0


@dataclass(frozen=True, slots=True)
class Evidence:
    """A retrieved passage. `score` is the retriever's own: comparable within one result only."""

    id: str
    text: str
    title: str = ""
    url: str = ""
    score: float | None = None
    retriever: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
    """An atomic fact of an answer and what its check found.

    `verdict` is None where the method gives none. `correction` is the part of the fact that
    the check upholds, or what it says instead; `evidence` holds `Evidence.id`s. `confidence` is the
    share, 0 to 1, of a check's votes that gave the verdict; None where the method does not vote.
    """

    text: str
    verdict: Verdict | None = None
    question: str | None = None
    answer: str | None = None
    correction: str | None = None
    evidence: tuple[str, ...] = ()
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of an assistant message as it arrived: OpenAI's `choices[0].delta` and its siblings."""

    fields: Message = field(default_factory=dict)
    finish_reason: str | None = None
    logprobs: Any = None

    @property
    def text(self) -> str:
        """The visible text of this piece."""
        content = self.fields.get("content")
        return content if isinstance(content, str) else ""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole assistant message.

    `envelope` keeps the top-level fields of the backend's completion that are not ours to
    make (`system_fingerprint`, `service_tier`, …).
    """

    message: Message
    finish_reason: str = "stop"
    logprobs: Any = None
    usage: Usage | None = None
    envelope: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The visible text: no reasoning, no tool calls."""
        return visible(self.message.get("content"))

    @property
    def calls_tools(self) -> bool:
        """Whether the message asks the client to run tools: then there is no text to check."""
        return bool(self.message.get("tool_calls") or self.message.get("function_call"))


_THINKING = re.compile(r"\A\s*<think>.*?(?:</think>\s*|\Z)", re.DOTALL)


def visible(content: Any) -> str:
    """The text of a message's `content`: its text parts joined, a leading reasoning block taken out.

    Chat templates that open the block themselves leave only its end tag in the output.
    """
    if isinstance(content, str):
        text = content
    elif isinstance(content, Sequence):
        parts = [part for part in content if isinstance(part, Mapping)]
        text = "\n".join(str(part["text"]) for part in parts if isinstance(part.get("text"), str))
    else:
        return ""
    if "<think>" in text:
        return _THINKING.sub("", text)
    return text.partition("</think>")[2].lstrip() if "</think>" in text else text


@dataclass(frozen=True, slots=True)
class Conversation:
    """The client's messages, kept as they came: roles, images, tool results and unknown fields."""

    messages: tuple[Message, ...]

    @property
    def question(self) -> str:
        """The text of the last user message."""
        return next(
            (visible(m.get("content")) for m in reversed(self.messages) if m.get("role") == "user"), ""
        )

    @property
    def instructions(self) -> tuple[Message, ...]:
        """The leading system and developer messages."""
        count = next(
            (i for i, m in enumerate(self.messages) if m.get("role") not in ("system", "developer")),
            len(self.messages),
        )
        return self.messages[:count]

    def asking(self, text: str) -> Conversation:
        """This conversation with `text` in the place of the last question's; its other parts (images)
        stay."""
        for index in range(len(self.messages) - 1, -1, -1):
            message = self.messages[index]
            if message.get("role") == "user":
                content = message.get("content")
                others = (
                    [] if isinstance(content, str | None) else [p for p in content if p.get("type") != "text"]
                )
                asked = [{"type": "text", "text": text}, *others] if others else text
                after = self.messages[index + 1 :]
                return Conversation((*self.messages[:index], {**message, "content": asked}, *after))
        return Conversation((*self.messages, {"role": "user", "content": text}))

    def answered(self, text: str) -> Conversation:
        """This conversation with `text` as the assistant's next words.

        Where the client ended on words of the assistant's own (a prefill), the two are one turn.
        """
        *before, last = self.messages
        if last.get("role") == "assistant" and not last.get("tool_calls"):
            return Conversation((*before, {**last, "content": visible(last.get("content")) + text}))
        return Conversation((*self.messages, {"role": "assistant", "content": text}))
