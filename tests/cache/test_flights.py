"""Single flight by itself: who waits for whom, and who does not."""

import asyncio

import pytest

from veridical.middleware.cache.flights import Flights
from veridical.strategies.errors import BackendFailed


async def read(flight):
    return [item async for item in flight.read()]


def test_a_reader_who_does_not_read_holds_back_nobody():
    """Two who each lead one flight and read the other's first would wait for one another for ever, if a
    flight moved at the pace of who started it."""

    async def work(flight):
        flight.begin()
        for number in range(3):
            await asyncio.sleep(0)
            flight.add(number)
        flight.land()

    async def main():
        flights = Flights()
        mine = [await flights.join(key, work) for key in ("a", "b")]
        others = [await flights.join(key, work) for key in ("b", "a")]
        assert [mine[0], mine[1]] == [others[1], others[0]]
        for flight in (*others, *mine):
            assert await read(flight) == [0, 1, 2]

    asyncio.run(asyncio.wait_for(main(), 5))


def test_of_those_who_wait_one_takes_over_and_if_that_fails_too_all_do():
    async def main():
        flights, runs = Flights(), []

        async def fail(flight):
            runs.append(flight)
            await asyncio.sleep(0.01)
            raise BackendFailed("no")

        found = await asyncio.gather(*(flights.join("k", fail) for _ in range(5)), return_exceptions=True)
        assert [type(each) for each in found] == [BackendFailed] * 5
        assert len(runs) == 2
        assert not flights._flying
        assert not flights._tasks

    asyncio.run(main())


def test_when_the_last_leaves_the_work_ends_before_leaving_does():
    async def main():
        flights, ended = Flights(), []

        async def work(flight):
            flight.begin()
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0.01)
                ended.append(True)

        flight = await flights.join("k", work)
        other = await flights.join("k", work)
        await flight.leave()
        assert not ended
        await other.leave()
        assert ended
        assert await flights.join("k", work) is not flight

        await flights.close(0.0)
        assert len(ended) == 2

    asyncio.run(main())


def test_one_who_is_cancelled_while_waiting_leaves():
    async def main():
        flights = Flights()
        release = asyncio.Event()

        async def work(flight):
            await release.wait()
            flight.add("x")
            flight.land()

        first, second = (asyncio.create_task(flights.join("k", work)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        release.set()
        assert await read(await second) == ["x"]

    asyncio.run(main())


def test_what_fails_on_its_way_gives_what_it_has_then_the_error():
    async def main():
        async def work(flight):
            flight.add("half")
            flight.begin()
            await asyncio.sleep(0)
            raise BackendFailed("broke off")

        flight = await Flights().join("k", work)
        reading = flight.read()
        assert await anext(reading) == "half"
        with pytest.raises(BackendFailed):
            await anext(reading)

    asyncio.run(main())
