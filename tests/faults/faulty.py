"""The upstream that goes wrong in the way that a request's `x-fault` header names.

`x-when` says at which of a request's calls: `always`, `once` (the first alone) or `later` (all but the
first). The calls of one request to the proxy are known by its `x-case` header, which is passed on.
"""

import asyncio
import json
import threading
from asyncio import StreamReader, StreamWriter
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

from veridical.tests.faults.wire import DONE, EVENTS, JSON, Call, raw_json, sse

#: An answer over this is more than the proxy of these tests reads (`backends.NAME.max_response_bytes`).
LARGEST = 400_000
Fault = Callable[[Call], Awaitable[None]]


async def reset(call: Call) -> None:
    """The connection is reset before a byte of an answer."""
    call.reset()


async def reset_within(call: Call) -> None:
    """It is reset in the middle of the answer."""
    await begun(call)
    await asyncio.sleep(0.05)  # or the RST would overtake what was written
    call.reset()


async def begun(call: Call) -> None:
    """The first half of a sound answer, however it is asked for."""
    if call.streamed:
        await call.begin(EVENTS)
        for each in call.chunks()[:3]:
            await call.chunk(sse(each))
    else:
        raw = raw_json(call.completion())
        await call.begin(JSON, length=len(raw))
        await call.write(raw[: len(raw) // 2])


async def closed(call: Call) -> None:
    """The connection is closed without an answer."""
    call.writer.close()


async def hang(call: Call) -> None:
    """Nothing is answered, and the connection stays open."""
    await call.reader.read()


async def hang_within(call: Call) -> None:
    """The answer stops half-way, and the connection stays open."""
    await begun(call)
    await call.reader.read()


async def drip(call: Call) -> None:
    """A byte now and then, without end: no read ever waits too long."""
    await call.begin(EVENTS if call.streamed else JSON)
    while True:
        await call.chunk(b":\n" if call.streamed else b" ")
        await asyncio.sleep(0.3)


async def slow(call: Call) -> None:
    """A sound answer at 1 MB/s, padded to 200 kB."""
    pad = {"pad": "x" * 200_000}
    raw = b"".join(map(sse, call.chunks())) if call.streamed else raw_json({**call.completion(), **pad})
    raw = sse({"choices": [], **pad}) + raw + DONE if call.streamed else raw
    await call.begin(EVENTS if call.streamed else JSON)
    for at in range(0, len(raw), 20_000):
        await call.chunk(raw[at : at + 20_000])
        await asyncio.sleep(0.02)
    await call.write(b"0\r\n\r\n")


async def half_json(call: Call) -> None:
    """Half a JSON object as a whole body, half an event as a whole stream."""
    raw = raw_json(call.completion())
    if call.streamed:
        await call.events([*map(sse, call.chunks()[:2]), sse(call.chunks()[2])[:30]])
    else:
        await call.whole(raw[: len(raw) // 2])


async def truncated(call: Call) -> None:
    """A chunked body whose connection closes before its last chunk."""
    parts = [*map(sse, call.chunks()[:3])] if call.streamed else [raw_json(call.completion())[:50]]
    await call.begin(EVENTS if call.streamed else JSON)
    for part in parts:
        await call.chunk(part)
    await call.write(b"ff\r\nhalf a chunk")
    call.writer.close()


async def empty(call: Call) -> None:
    """A 200 without a body, or without an event."""
    await (call.events([]) if call.streamed else call.whole(b""))


async def other_type(call: Call) -> None:
    """A sound answer that calls itself text/plain."""
    await call.answer("text/plain")


async def html(call: Call) -> None:
    """A page in HTML, with a 200."""
    await call.whole(b"<html><title>Sign in to the network</title></html>", "text/html")


async def garbage(call: Call) -> None:
    """Something that is not HTTP."""
    await call.write(b"SSH-2.0-OpenSSH_9.9\r\n")
    call.writer.close()


async def storm(call: Call) -> None:
    """Error 500."""
    await refuse_with(call, "500 Internal Server Error")


async def bad_gateway(call: Call) -> None:
    """Error 503 of a gateway, in HTML."""
    await call.whole(b"<h1>503 Service Unavailable</h1>", "text/html", "503 Service Unavailable")


async def refuse_with(call: Call, status: str) -> None:
    error = {"message": "not now", "type": "server_error", "param": None, "code": f"upstream_{status[:3]}"}
    await call.whole(raw_json({"error": error}), status=status)


async def limited(call: Call) -> None:
    """Error 429."""
    await refuse_with(call, "429 Too Many Requests")


async def limited_for(call: Call) -> None:
    """Error 429 with Retry-After: 1."""
    call.extra = b"Retry-After: 1\r\n"
    await refuse_with(call, "429 Too Many Requests")


async def limited_long(call: Call) -> None:
    """Error 429 with Retry-After: 86400, past every deadline."""
    call.extra = b"Retry-After: 86400\r\n"
    await refuse_with(call, "429 Too Many Requests")


async def forbidden(call: Call) -> None:
    """Error 403."""
    await refuse_with(call, "403 Forbidden")


async def redirect(call: Call) -> None:
    """A redirection to another place."""
    call.extra = b"Location: http://127.0.0.1:9/v1/chat/completions\r\n"
    await call.whole(b"", status="307 Temporary Redirect")


async def odd_status(call: Call) -> None:
    """A status that HTTP does not have: 799."""
    await refuse_with(call, "799 Unheard Of")


async def error_inside(call: Call) -> None:
    """A 200 that holds an error object."""
    await call.same({"error": {"message": "out of memory", "type": "server_error", "code": 500}})


async def misshapen(call: Call) -> None:
    """JSON that is no completion: a number for a message."""
    key = "delta" if call.streamed else "message"
    await call.same({"choices": [{"index": 0, key: {"content": 5}, "finish_reason": "stop"}]})


async def no_choices(call: Call) -> None:
    """A completion without a choice."""
    await call.same({"choices": [], "usage": None})


async def not_utf8(call: Call) -> None:
    """Bytes in a string that are no UTF-8."""
    if call.streamed:
        first = call.chunks()[0]
        await call.events(
            [sse(first), b'data: {"choices":[{"index":0,"delta":{"content":"\xff"}}]}\n\n', DONE]
        )
    else:
        raw = raw_json(call.completion())
        await call.whole(raw.replace(b"Canberra", b"Can\xffberra").replace(b'"stop"', b'"st\xffop"'))


async def deep(call: Call) -> None:
    """An answer with a field nested 500 levels deep, inside the message."""
    nest = b"[" * 500 + b"]" * 500
    if call.streamed:
        first, *rest = call.chunks()
        raw = raw_json(first).replace(b'"content"', b'"deep": ' + nest + b', "content"')
        await call.events([b"data: " + raw + b"\n\n", *map(sse, rest), DONE])
    else:
        raw = raw_json(call.completion())
        await call.whole(raw.replace(b'"content"', b'"deep": ' + nest + b', "content"', 1))


async def odd_usage(call: Call) -> None:
    """A usage that is no usage: numbers below zero or past 64 bits, strings, lists."""
    usage = {
        "prompt_tokens": 18_446_744_073_709_551_615,
        "completion_tokens": -5,
        "total_tokens": "many",
        "prompt_tokens_details": ["cached"],
    }
    if call.streamed:
        *said, last = call.chunks()
        await call.events([*map(sse, said), sse({**last, "usage": usage}), sse({"usage": 3}), DONE])
    else:
        await call.whole(raw_json({**call.completion(), "usage": usage}))


async def twice(call: Call) -> None:
    """Role, finish reason, usage and end mark come twice; in a body, every choice."""
    if call.streamed:
        role, *said, finish, usage = map(sse, call.chunks())
        await call.events([role, role, *said, finish, finish, usage, usage, DONE, DONE])
    else:
        found = call.completion()
        await call.whole(raw_json({**found, "choices": found["choices"] * 2}))


async def gigantic(call: Call) -> None:
    """One event, or a body, larger than is read."""
    pad = "x" * (LARGEST + 100_000)
    if call.streamed:
        await call.events([sse({**call.chunks()[0], "pad": pad}), *map(sse, call.chunks()), DONE])
    else:
        await call.whole(raw_json({**call.completion(), "pad": pad}))


async def odd_headers(call: Call) -> None:
    """A sound answer with headers in UTF-8 and Latin-1, twice the same, and one of 6 kB."""
    named = "X-Name: žluťoučký kůň\r\n".encode() + "X-Name: crème\r\n".encode("latin-1")
    call.extra = named + b"X-Long: " + b"x" * 6000 + b"\r\n"
    await call.answer()


async def header_bomb(call: Call) -> None:
    """A sound answer behind 200 kB of headers."""
    call.extra = b"".join(b"X-Pad-%d: %b\r\n" % (i, b"x" * 1000) for i in range(200))
    await call.answer()


#: In the order of the page; `refuse` is a backend of its own.
FAULTS: dict[str, Fault] = {
    fault.__name__.replace("_", "-"): fault
    for fault in (
        *(reset, reset_within, closed, garbage, hang, hang_within, drip, slow),
        *(half_json, truncated, empty, other_type, html, error_inside, misshapen, no_choices, not_utf8, deep),
        *(odd_usage, twice, gigantic, odd_headers, header_bomb),
        *(storm, bad_gateway, limited, limited_for, limited_long, forbidden, redirect, odd_status),
    )
}


class Faulty:
    """The server. `open` counts its connections."""

    def __init__(self) -> None:
        self.url = ""
        self.open = 0
        self.calls: Counter[str] = Counter()

    async def serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        self.open += 1
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                while not writer.is_closing():
                    await self._serve_one(reader, writer)
        finally:
            self.open -= 1
            writer.close()

    async def _serve_one(self, reader: StreamReader, writer: StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:])}
        body = json.loads(await reader.readexactly(int(headers["content-length"])))
        call = Call(reader, writer, headers, body)
        before = self.calls[headers["x-case"]]
        self.calls[headers["x-case"]] += 1
        wrong = {"always": True, "once": before == 0, "later": before > 0}[headers["x-when"]]
        await (FAULTS[headers["x-fault"]] if wrong and headers["x-fault"] in FAULTS else Call.answer)(call)


@contextmanager
def running_faulty() -> Iterator[Faulty]:
    """The server on a free loopback port, in a thread of its own."""
    faulty, loop = Faulty(), asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(faulty.serve, "127.0.0.1", 0, backlog=1000))
    faulty.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield faulty
    finally:
        asyncio.run_coroutine_threadsafe(_stop(server), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def _stop(server: asyncio.Server) -> None:
    server.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
