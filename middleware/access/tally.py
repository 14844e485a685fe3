"""What a relayed answer cost, read from its bytes as they pass: none is held back, changed or copied."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import orjson

from veridical.middleware.access.usage import Spending
from veridical.middleware.responding import Send
from veridical.strategies.errors import BackendError
from veridical.strategies.trace import Call
from veridical.strategies.types import Message, Usage

#: An answer up to this size is parsed whole; of a larger one only its end is looked at.
PARSED_BYTES = 1_000_000
#: The end of a stream in which its usage is looked for.
TAIL_BYTES = 16_384
#: Events of a stream that carry no token: the role, the finish reason, [DONE].
SILENT_EVENTS = 3
#: What a request holds for its answer where it sets no limit of its own.
UNSET_COMPLETION_TOKENS = 256
#: Bytes of UTF-8 to a token, for want of the model's tokeniser: about right for English prose.
BYTES_PER_TOKEN = 4
#: Errors of a backend that says it did no work; others may have cost their prompt.
_FREE = frozenset(
    {"BackendRefused", "BackendRateLimited", "BackendUnreachable", "BackendUnavailable", "BackendFailed"}
)
_USAGE = re.compile(rb'(?<!\\)"usage"\s*:\s*(?=\{)')


class Tally:
    """Stands before `send`, sees what goes by, and reads the usage that the backend told.

    Where a stream tells none (its client did not ask by `stream_options.include_usage`), its events are
    counted: engines send one for each token. Asking the backend for more than the client did would change
    the bytes of every event.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._answered = self._refused = self._streamed = False
        self._parts: list[bytes] = []
        self._size = self._kept = self._events = 0
        self._read: tuple[Usage | None] | None = None

    async def __call__(self, message: Any) -> None:
        """Pass an ASGI message on."""
        if message["type"] == "http.response.start":
            self._refused = message["status"] >= 400
            self._answered = not self._refused
            kinds = [value for name, value in message["headers"] if name == b"content-type"]
            self._streamed = any(kind.startswith(b"text/event-stream") for kind in kinds)
        elif self._answered and (body := message.get("body")):
            self._see(body)
        await self._send(message)

    def _see(self, body: bytes) -> None:
        self._parts.append(body)
        self._size += len(body)
        self._kept += len(body)
        if self._streamed:
            self._events += body.count(b"data:")
        limit = TAIL_BYTES if self._streamed else PARSED_BYTES
        while self._kept - len(self._parts[0]) > limit:
            self._kept -= len(self._parts.pop(0))

    def failed(self, error: BackendError) -> None:
        """There was no answer; some errors say that the backend did no work, either."""
        self._refused = type(error).__name__ in _FREE

    def spending(self, request: Mapping[str, Any]) -> Spending:
        """What the request cost, as far as its answer came; one that was left before is its prompt."""
        if self._refused:
            return Spending(calls=1)
        usage = self.usage
        if usage is not None:
            return Spending(0, 1, usage.prompt_tokens, usage.completion_tokens)
        said = max(0, self._events - SILENT_EVENTS) if self._streamed else self._size // BYTES_PER_TOKEN
        return Spending(0, 1, prompt_tokens(request["messages"]), said, estimated_calls=1)

    def told(self) -> Spending:
        """What the backend says that the request cost; nothing where it does not say."""
        usage = self.usage
        if usage is None:
            return Spending(calls=1)
        return Spending(0, 1, usage.prompt_tokens, usage.completion_tokens)

    @property
    def usage(self) -> Usage | None:
        """What the backend says, once nothing more comes; looked for once."""
        if self._read is None:
            self._read = (None if self._refused else self._found(),)
        return self._read[0]

    def _found(self) -> Usage | None:
        data = b"".join(self._parts)
        whole = not self._streamed and self._kept == self._size
        found = _usage_in(data) if whole else next(_usages_at_end(data), None)
        return None if found is None else _read(found)


def _usage_in(data: bytes) -> Mapping[str, Any] | None:
    try:
        answer = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    usage = answer.get("usage") if isinstance(answer, dict) else None
    return usage if isinstance(usage, dict) else None


def _usages_at_end(data: bytes) -> Iterator[Mapping[str, Any]]:
    """The usage objects in a piece of JSON or of a stream, the last first. Inside a JSON string the name's
    quotes would be escaped, so a model's words are not taken for one."""
    for match in reversed(list(_USAGE.finditer(data))):
        end = data.find(b"}", match.end())
        while 0 < end < match.end() + 2_000:
            try:
                found = orjson.loads(data[match.end() : end + 1])
            except orjson.JSONDecodeError:
                end = data.find(b"}", end + 1)
                continue
            yield found
            break


def _read(usage: Mapping[str, Any]) -> Usage:
    """OpenAI's usage object, of chat completions or of the names that Responses has."""
    if "input_tokens" in usage and "prompt_tokens" not in usage:
        usage = {"prompt_tokens": usage["input_tokens"], "completion_tokens": usage.get("output_tokens")}
    return Usage.from_wire(usage)


def spent_by(calls: Iterable[Call]) -> Spending:
    """What a strategy's calls cost; a call that was cut off counts its prompt and what had come, one that
    a cache answered nothing."""
    return sum((_cost(call) for call in calls if not call.cached), Spending())


def _cost(call: Call) -> Spending:
    if call.usage is not None:
        return Spending(0, 1, call.usage.prompt_tokens, call.usage.completion_tokens)
    if call.error in _FREE and not call.output:
        return Spending(calls=1)
    said = sum(map(_tokens, (call.output, *call.others)))
    return Spending(0, 1, prompt_tokens(call.messages), said, estimated_calls=1)


def asked_tokens(request: Mapping[str, Any]) -> int:
    """An estimate of what one call for this request takes, before it is made."""
    wanted = request.get("max_completion_tokens") or request.get("max_tokens")
    completion = wanted if isinstance(wanted, int) and wanted > 0 else UNSET_COMPLETION_TOKENS
    return prompt_tokens(request["messages"]) + completion * (request.get("n") or 1)


def prompt_tokens(messages: Iterable[Message]) -> int:
    """An estimate of the tokens of messages; counts their text only, no image."""
    return sum(_tokens(text) + 4 for message in messages for text in _texts(message))


def _texts(message: Message) -> Iterator[str]:
    content = message.get("content")
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        yield from (part["text"] for part in content if isinstance(part.get("text"), str))


def _tokens(text: str) -> int:
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    return -(-size // BYTES_PER_TOKEN)
