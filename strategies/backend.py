"""The seam to whatever serves a model: one method, one value in, one reply out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from typing import Protocol

import orjson

from veridical.strategies.errors import InvalidRequest
from veridical.strategies.reply import Reply
from veridical.strategies.types import Message, Params


@dataclass(frozen=True)
class ChatRequest:
    """One chat completion to ask for: one choice, streamed or whole, or `n` choices, whole.

    `sample` numbers independent draws of the same request, so that nothing that shares work
    may merge them; n choices are the draws from `sample` on. `n` is only asked of a backend that
    supports it. `headers` are the client's, forwarded where the backend allows it. `step` says what a
    strategy asks for, for who watches: no backend is sent it.
    """

    model: str
    messages: Sequence[Message]
    params: Params = field(default_factory=dict)
    stream: bool = False
    sample: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    n: int = 1
    step: str = ""

    @cached_property
    def draw(self) -> bytes:
        """What makes two requests the same draw, as a hash: model, messages, parameters, sample number.
        How the answer travels does not matter.

        Raises:
            InvalidRequest: the body is nested too deeply to be written.
        """
        params = {key: value for key, value in self.params.items() if key != "stream_options"}
        asked = (self.model, self.messages, params, str(self.sample), self.n)
        try:
            return blake2b(orjson.dumps(asked, default=dict, option=orjson.OPT_SORT_KEYS)).digest()
        except orjson.JSONEncodeError:
            raise InvalidRequest("The body is nested too deeply.") from None


class Backend(Protocol):
    """Anything that answers a `ChatRequest`. What adds behaviour (retries, a cache, limits) is
    a backend that holds a backend."""

    @property
    def supports(self) -> set[str]:
        """Of {"json_schema", "schema_lengths", "n"}: what may be asked of it; shrinks when it refuses."""
        ...

    def adapted(self, params: Params) -> Params:
        """A strategy's own parameters as this backend takes them: some refuse or rename a few."""
        ...

    async def chat(self, request: ChatRequest) -> Reply:
        """Answer. Returns once the backend's status is known; a stream then goes on arriving.

        Of several choices the first is the reply, the rest are its `others`; there may be fewer
        than were asked for.

        Raises:
            BackendError: it refused, failed, timed out or cannot be reached.
        """
        ...
