"""A pool where one backend would stand: to strategies, and to whoever passes bytes on."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Set
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from veridical.middleware.backends.openai_http import OpenAIBackend, next_bytes, refusal_of
from veridical.middleware.backends.relay import Outgoing, Sent
from veridical.middleware.balancing.pool import MOVABLE, Pool, Target
from veridical.middleware.balancing.replica import Lease
from veridical.strategies.backend import ChatRequest
from veridical.strategies.reply import Ending, Reply
from veridical.strategies.types import Delta, Params


@dataclass(frozen=True, slots=True)
class Begun:
    """A reply, and its first delta where it is a stream: until then another server can take over."""

    reply: Reply
    first: Delta | None
    rest: AsyncIterator[Delta] | None


class PooledBackend:
    """A pool as a `Backend`. What its servers support is what all of them do; parameters are adapted as
    its first server wants them."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._supports = set.union(*(target.replica.backend.supports for target in pool.targets))

    @property
    def supports(self) -> set[str]:
        """What may be asked of any of them; shrinks when one refuses."""
        for target in self.pool.targets:
            self._supports &= target.replica.backend.supports
        return self._supports

    def adapted(self, params: Params) -> Params:
        """A strategy's own parameters as the first server takes them."""
        return next(self.pool.targets).replica.backend.adapted(params)

    async def chat(self, request: ChatRequest) -> Reply:
        """Answer, by whichever server does. A stream is returned once its first piece is there.

        Raises:
            BackendError: none did.
        """
        lease, begun = await self.pool.attempt(request.headers, lambda target, _: _begun(target, request))
        if begun.rest is None:
            lease.end()
            return begun.reply

        async def close() -> None:
            await begun.reply.aclose()
            lease.end(GeneratorExit())

        return Reply(_continued(begun, begun.rest, lease), close)


async def _begun(target: Target, request: ChatRequest) -> Begun:
    if target.model is not None:
        request = replace(request, model=target.model)
    reply = await target.replica.backend.chat(request)
    if not request.stream:
        return Begun(reply, None, None)
    try:
        deltas = aiter(reply)
        return Begun(reply, await anext(deltas, None), deltas)
    except BaseException:
        await reply.aclose()
        raise


async def _continued(
    begun: Begun, rest: AsyncIterator[Delta], lease: Lease
) -> AsyncGenerator[Delta | Ending, None]:
    try:
        if begun.first is not None:
            yield begun.first
        async for delta in rest:
            yield delta
    except BaseException as error:
        lease.end(error)
        await begun.reply.aclose()
        raise
    lease.end()
    answer = begun.reply.answer
    yield Ending(answer.usage, answer.envelope, begun.reply.others)


class PooledRelay:
    """A pool to which bytes can be passed. An answer is handed over once its first bytes are there."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    @property
    def speaks_responses(self) -> bool | None:
        """Whether all have the Responses API; None while that is not known of one."""
        told = {_http(target).speaks_responses for target in self.pool.targets}
        return False if False in told else None if None in told else True

    @property
    def reader(self) -> OpenAIBackend:
        """By whose rules answers are read: the first server's."""
        return _http(next(self.pool.targets))

    @property
    def forwards_authorization(self) -> bool:
        """Whether the client's credentials go on to one of them."""
        return any(_http(target).forwards_authorization for target in self.pool.targets)

    @asynccontextmanager
    async def sent(self, outgoing: Outgoing) -> AsyncIterator[Sent]:
        """A request sent on to whichever server answers it.

        Raises:
            BackendError: none did. The last one's refusal is no error: it is the answer.
        """

        async def ask(target: Target, tried: Set[Target]) -> Sent:
            return await self._answered(target, tried, outgoing)

        lease, sent = await self.pool.attempt(outgoing.headers, ask, pinned=outgoing.pinned)
        try:
            yield sent
        except BaseException as error:
            lease.end(sent.fault or error)
            raise
        finally:
            sent.response.close()
            lease.end(sent.fault)

    async def models(self, headers: Mapping[str, str]) -> list[dict[str, Any]]:
        """What the first server lists that answers.

        Raises:
            BackendError: none does.
        """
        lease, found = await self.pool.attempt(headers, lambda target, _: _http(target).models(headers))
        lease.end()
        return found

    async def _answered(self, target: Target, tried: Set[Target], outgoing: Outgoing) -> Sent:
        """A response that has begun, or a refusal that no other server can help with."""
        http = _http(target)
        model = outgoing.model if target.model is None else target.model
        response = await http.send(
            outgoing.method, outgoing.path, outgoing.body(model), outgoing.headers, stream=outgoing.stream
        )
        sent = Sent(response, http, target.replica.name)
        try:
            if response.status < 400:
                sent.head = await next_bytes(response)
            elif isinstance(fault := refusal_of(response), MOVABLE):
                if self.pool.has_other(tried, outgoing.headers):
                    raise await http.refusal(response)
                sent.fault = fault
        except BaseException:
            response.close()
            raise
        return sent


def _http(target: Target) -> OpenAIBackend:
    assert target.replica.http is not None  # noqa: S101 - such a pool has no relay
    return target.replica.http
