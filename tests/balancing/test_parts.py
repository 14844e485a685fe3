"""The parts of balancing by themselves: the breaker's states, whose turn it is, what Retry-After says."""

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from veridical.middleware.balancing.breaker import Breaker
from veridical.middleware.balancing.fairness import FairQueue, Waiter
from veridical.middleware.balancing.replica import seconds_in


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def open_breaker(clock: Clock) -> Breaker:
    breaker = Breaker(3, 10.0, clock)
    assert [breaker.failed(trial=False) for _ in range(3)] == [False, False, True]
    return breaker


def test_failures_in_a_row_open_it_and_a_success_between_them_does_not(clock):
    breaker = Breaker(3, 10.0, clock)
    for _ in range(2):
        breaker.failed(trial=False)
    breaker.succeeded(trial=False)
    for _ in range(2):
        assert not breaker.failed(trial=False)
    assert breaker.admits()
    assert breaker.failed(trial=False)
    assert (breaker.state, breaker.admits(), breaker.wait_s) == ("open", False, 10.0)


def test_one_trial_decides_and_a_failed_one_doubles_the_wait(clock):
    breaker = open_breaker(clock)
    clock.now += 10
    assert (breaker.state, breaker.admits()) == ("half_open", True)
    assert breaker.begin()
    assert not breaker.admits()
    assert breaker.failed(trial=True)
    assert breaker.wait_s == 20.0
    clock.now += 20
    breaker.begin()
    breaker.succeeded(trial=True)
    assert (breaker.state, breaker.admits()) == ("closed", True)


def test_what_began_before_it_opened_changes_nothing(clock):
    breaker = open_breaker(clock)
    breaker.succeeded(trial=False)
    assert breaker.state == "open"
    assert not breaker.failed(trial=False)
    assert breaker.wait_s == 10.0


def test_a_trial_that_nobody_waits_for_any_more_makes_room_for_another(clock):
    breaker = open_breaker(clock)
    clock.now += 10
    breaker.given_up(trial=breaker.begin())
    assert breaker.admits()


def test_a_probe_closes_it_at_once_and_its_failures_count(clock):
    breaker = open_breaker(clock)
    assert not breaker.probed(well=True)
    assert breaker.state == "closed"
    assert [breaker.probed(well=False) for _ in range(3)] == [False, False, True]


def test_none_means_never(clock):
    breaker = Breaker(0, 10.0, clock)
    assert not any(breaker.failed(trial=False) for _ in range(100))


def test_turns_go_round_clients_then_their_requests_then_calls():
    async def scenario() -> list[str]:
        queue: FairQueue[str] = FairQueue()
        burst = [("a", "r1", f"a1.{n}") for n in range(3)]
        lines = [*burst, ("a", "r2", "a2.0"), ("b", "r3", "b.0"), ("b", "r3", "b.1")]
        names = {}
        for client, request, name in lines:
            waiter: Waiter[str] = Waiter(client, request)
            names[waiter] = name
            queue.add(waiter)
        order = []
        while len(queue):
            waiter = queue.next()
            order.append(names[waiter])
            waiter.settle("a place")
        return order

    assert asyncio.run(scenario()) == ["a1.0", "b.0", "a2.0", "b.1", "a1.1", "a1.2"]


def test_who_waits_in_two_queues_leaves_both():
    async def scenario() -> tuple[int, int]:
        first: FairQueue[str] = FairQueue()
        second: FairQueue[str] = FairQueue()
        waiter: Waiter[str] = Waiter("a", "r")
        first.add(waiter)
        second.add(waiter)
        second.next().settle("a place")
        assert await waiter.turn == "a place"
        return len(first), len(second)

    assert asyncio.run(scenario()) == (0, 0)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("7", 7.0), (" 0.5", 0.5), ("-3", 0.0), (None, None), ("", None), ("soon", None), ("inf", None)],
)
def test_retry_after_in_seconds(text, seconds):
    assert seconds_in(text) == seconds


def test_retry_after_as_a_date():
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert 55 < (seconds_in(later) or 0) <= 60
    assert seconds_in("Sun, 06 Nov 1994 08:49:37 GMT") == 0.0
