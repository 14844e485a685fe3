"""An answer's head and what follows at once are one write; a head that nothing follows does not wait."""

from __future__ import annotations

import asyncio

from veridical.middleware.connection import Joined


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes | None] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def close(self) -> None:
        self.written.append(None)

    def is_closing(self) -> bool:
        return None in self.written


async def _turns() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def test_a_whole_answer_is_one_write_and_a_connection_s_next_one_too() -> None:
    async def run() -> list[bytes | None]:
        transport = Transport()
        joined = Joined(transport, asyncio.get_running_loop())
        for _ in range(2):
            joined.begin()
            joined.write(b"head ")
            joined.write(b"body")
            await _turns()
        return transport.written

    assert asyncio.run(run()) == [b"head body", b"head body"]


def test_the_head_of_a_stream_goes_out_before_its_first_event() -> None:
    async def run() -> list[bytes | None]:
        transport = Transport()
        joined = Joined(transport, asyncio.get_running_loop())
        joined.begin()
        joined.write(b"head")
        await _turns()
        assert transport.written == [b"head"]
        joined.write(b"event")
        joined.write(b"event")
        return transport.written

    assert asyncio.run(run()) == [b"head", b"event", b"event"]


def test_closing_loses_nothing() -> None:
    async def run() -> list[bytes | None]:
        transport = Transport()
        joined = Joined(transport, asyncio.get_running_loop())
        joined.begin()
        joined.write(b"head")
        joined.close()
        await _turns()
        assert joined.is_closing()
        return transport.written

    assert asyncio.run(run()) == [b"head", None]
