"""What a backend must offer so that bytes can be passed to it: the values that go out and come back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from veridical.strategies.errors import BackendError

if TYPE_CHECKING:
    from veridical.middleware.backends.exchange import Exchange
    from veridical.middleware.backends.openai_http import OpenAIBackend


@dataclass(slots=True)
class Outgoing:
    """A client's request on its way out: `body` gives its bytes for the name that the model has there.

    One that is `pinned` refers to what a single server may have kept: it has no other server to go to.
    """

    method: str
    path: str
    body: Callable[[str], bytes | None]
    model: str
    headers: Mapping[str, str]
    stream: bool = False
    pinned: bool = False


@dataclass(slots=True)
class Sent:
    """A request that went out, and its response: status known, body still to be read behind `head`.

    `http` is who answered, `server` its name where there are several. `fault` is what broke the answer off,
    as whoever reads it has found.
    """

    response: Exchange
    http: OpenAIBackend
    server: str | None = None
    head: bytes = b""
    fault: BackendError | None = None


class Underway(AbstractAsyncContextManager[Sent]):
    """What `OpenAIBackend.sent` enters. A class: a generator would take longer than what it does."""

    __slots__ = ("_http", "_outgoing", "_response")

    def __init__(self, http: OpenAIBackend, outgoing: Outgoing) -> None:
        self._http, self._outgoing = http, outgoing

    async def __aenter__(self) -> Sent:
        """Send it; returns once the status of the answer is known."""
        out = self._outgoing
        self._response = await self._http.send(
            out.method, out.path, out.body(out.model), out.headers, stream=out.stream
        )
        return Sent(self._response, self._http)

    async def __aexit__(self, *failure: object) -> None:
        """The answer is not used any more."""
        self._response.close()


class Upstream(Protocol):
    """One server, or several of which one is chosen."""

    @property
    def speaks_responses(self) -> bool | None:
        """Whether it has the Responses API; None while that is not known."""
        ...

    @property
    def forwards_authorization(self) -> bool:
        """Whether it gets to see the client's credentials."""
        ...

    @property
    def reader(self) -> OpenAIBackend:
        """By whose rules its answers are read."""
        ...

    def sent(self, outgoing: Outgoing) -> AbstractAsyncContextManager[Sent]:
        """A request sent on, for as long as its response is used.

        Raises:
            BackendError: there is no response.
        """
        ...

    async def models(self, headers: Mapping[str, str]) -> list[dict[str, Any]]:
        """The model objects that it lists.

        Raises:
            BackendError: it has no list, or does not answer.
        """
        ...
