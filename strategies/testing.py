"""The test kit, for our tests and plug-in authors': a scripted backend and one-line runs.

The backend is the boundary; all above it runs for real. A script that runs out fails loudly,
and so does one that is not used up (`assert_used_up`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from veridical.strategies.backend import Backend, ChatRequest
from veridical.strategies.base import Context, Strategy
from veridical.strategies.budget import Budget, Limits
from veridical.strategies.llm import LLM
from veridical.strategies.reply import Ending, Reply, unstreamed
from veridical.strategies.trace import Trace
from veridical.strategies.types import Answer, Conversation, Delta, Message, Params, Usage, visible

When = str | Callable[[ChatRequest], bool]
Said = str | Message | Exception | Callable[[ChatRequest], str | Message]
Rule = tuple[When, Said]


@dataclass
class ScriptedBackend:
    """Answers by script: each rule is (words that the last message holds, what is said then).

    A function of the request may stand for the words. A rule serves once, unless `repeat` is set;
    the first that fits is taken, so concurrent calls may come in any order. What is said is a text,
    a whole message, an error to raise, or a function of the request. Every call takes `delay`
    seconds; `finish` is the reason given for the end of a text. Each choice of a request for `n`
    takes a rule of its own, as long as one fits; put "n" into `supports` to be asked for several.
    """

    rules: list[Rule]
    supports: set[str] = field(default_factory=lambda: {"json_schema"})
    delay: float = 0.0
    repeat: bool = False
    finish: str = "stop"
    requests: list[ChatRequest] = field(default_factory=list)
    running: int = 0
    most_running: int = 0

    def __init__(self, *rules: Rule, delay: float = 0.0, repeat: bool = False, finish: str = "stop") -> None:
        self.rules, self.delay, self.repeat, self.finish = list(rules), delay, repeat, finish
        self.supports, self.requests = {"json_schema"}, []
        self.running = self.most_running = 0

    @property
    def prompts(self) -> list[str]:
        """All text of each call, in the order of the calls."""
        return ["\n".join(visible(m.get("content")) for m in r.messages) for r in self.requests]

    def asked(self, words: str) -> list[str]:
        """The prompts whose last message holds `words`."""
        last = [visible(r.messages[-1].get("content")) for r in self.requests]
        return [prompt for prompt, text in zip(self.prompts, last, strict=True) if words in text]

    def adapted(self, params: Params) -> Params:
        """A strategy's own parameters, as they are."""
        return params

    async def chat(self, request: ChatRequest) -> Reply:
        """Answer by the first rule that fits.

        Raises:
            AssertionError: no rule fits.
        """
        said = self._match(request)
        self.requests.append(request)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await asyncio.sleep(self.delay)
        finally:
            self.running -= 1
        messages = [_message(said, request), *self._further(request)]
        prompt = sum(len(visible(m.get("content")).split()) for m in request.messages)
        usage = Usage(prompt, sum(map(_words, messages)))
        message, *others = messages
        if request.stream:
            return Reply(_streamed(message, usage, self._finish(message)))
        return Reply.of(
            Answer(message, self._finish(message), usage=usage),
            tuple(Answer(other, self._finish(other)) for other in others),
        )

    def _further(self, request: ChatRequest) -> list[Message]:
        """What the other choices of a request for several say: fewer where the script ends."""
        found: list[Message] = []
        for _ in range(request.n - 1):
            try:
                found.append(_message(self._match(request), request))
            except AssertionError:
                break
        return found

    def _finish(self, message: Message) -> str:
        return "tool_calls" if message.get("tool_calls") else self.finish

    def _match(self, request: ChatRequest) -> Said:
        last = visible(request.messages[-1].get("content"))
        for rule in self.rules:
            if rule[0] in last if isinstance(rule[0], str) else rule[0](request):
                if not self.repeat:
                    self.rules.remove(rule)
                return rule[1]
        raise AssertionError(f"the script has no answer to: {last[:500]!r}")

    def assert_used_up(self) -> None:
        """Fail if a rule was never used."""
        assert self.repeat or not self.rules, f"not asked for: {[rule[0] for rule in self.rules]}"  # noqa: S101


def _message(said: Said, request: ChatRequest) -> Message:
    if isinstance(said, Exception):
        raise said
    found = said(request) if callable(said) else said
    return {"role": "assistant", "content": found} if isinstance(found, str) else found


def _words(message: Message) -> int:
    return len(visible(message.get("content")).split())


async def _streamed(message: Message, usage: Usage, finish: str) -> AsyncGenerator[Delta | Ending, None]:
    text = message.get("content")
    rest = {key: value for key, value in unstreamed(message).items() if key != "content"}
    yield Delta({**rest, "content": ""} if isinstance(text, str) else rest)
    if isinstance(text, str):
        for start in range(0, len(text), 7):
            yield Delta({"content": text[start : start + 7]})
    yield Delta({}, finish_reason=finish)
    yield Ending(usage)


@dataclass(frozen=True)
class Outcome:
    """What `ask` returns: the whole answer, the reply it came from and the trace."""

    answer: Answer
    reply: Reply
    trace: Trace

    @property
    def text(self) -> str:
        """The answer's visible text."""
        return self.answer.text


async def ask(
    strategy: Strategy,
    question: str | list[Message],
    backend: Backend,
    *,
    params: Mapping[str, Any] | None = None,
    stream: bool = False,
    limits: Limits | None = None,
    **context: Any,
) -> Outcome:
    """Run a strategy on a question (or a whole conversation) and read its answer."""
    messages = [{"role": "user", "content": question}] if isinstance(question, str) else question
    trace = Trace()
    llm = LLM(backend, "scripted", Budget(limits or Limits()), trace)
    ctx = Context(llm, params or {}, stream, **context)
    reply = await strategy(Conversation(tuple(messages)), ctx)
    return Outcome(await reply.read(), reply, trace)
