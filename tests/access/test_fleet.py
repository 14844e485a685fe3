"""Three replicas behind a balancer that retries, one of them killed under load: no request is lost that had
no answer yet, and no stream that breaks looks complete."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import openai
import pytest

from veridical.tests.answers import Halfway, Held, Say
from veridical.tests.processes import started
from veridical.tests.proxy import Proxy, wait_until
from veridical.tests.servers import listens, running_balancer
from veridical.tests.upstream import CANBERRA

pytestmark = pytest.mark.timeout(900)
#: What a busy machine may need for anything.
SLOW_S = 240
RIGHT = "The capital of Australia is Canberra."


@pytest.fixture
def fleet(upstream, shared, tmp_path):
    with ExitStack() as stack:
        arguments = ("--keys", "--base-url", upstream.url)
        replicas = [stack.enter_context(started(tmp_path, *arguments)) for _ in range(3)]
        wait_until(lambda: all(listens(each.proxy.port) for each in replicas), SLOW_S)
        yield replicas


@pytest.fixture
def balanced(fleet, create):
    """The fleet's balancer as a client with a key sees it."""
    with running_balancer([each.proxy.port for each in fleet]) as balancer:
        proxy = Proxy(balancer.port)
        wait_until(lambda: proxy.request("GET", "/ready").status == 200, SLOW_S)
        yield proxy.client_with(create()).with_options(timeout=300)
        proxy.close()


class Load:
    """What clients do to the fleet: `begun` streams whose words have begun to come, `waiting` requests of all
    kinds without a byte of an answer, and others, one after the other, until told to stop."""

    def __init__(self, client, upstream, pool):
        self.client, self.upstream, self.pool = client, upstream, pool
        self.release, self.stop = threading.Event(), threading.Event()
        upstream.cove(RIGHT, CANBERRA)
        upstream.on(draft=self._draft)

    def _draft(self, exchange):
        if "begun" in exchange.prompt:
            return Halfway(Say(RIGHT), self.release)
        return Held(Say(RIGHT), self.release) if "waiting" in exchange.prompt else Say(RIGHT)

    def ask(self, words, model="m1", stream=False):
        messages = [{"role": "user", "content": words}]
        return self.client.chat.completions.create(model=model, messages=messages, stream=stream)

    def asked(self, words):
        """The upstream's log of the drafts for requests of a kind."""
        return [exchange for exchange in self.upstream.asked("draft") if words in exchange.prompt]

    def begin(self, count):
        streams = {f"begun {number};": self.ask(f"begun {number};", stream=True) for number in range(count)}
        for stream in streams.values():
            next(stream)
        return streams

    def wait(self, count):
        kinds = [("m1", False), ("m1", True), ("m1+cove", False)]
        asks = [(f"waiting {number};", *kinds[number % 3]) for number in range(count)]
        return [self.pool.submit(self._whole, *each) for each in asks]

    def _whole(self, words, model, stream):
        found = self.ask(words, model, stream)
        return said(found) if stream else found.choices[0].message.content

    def go_on(self):
        answers = []
        while not self.stop.is_set():
            try:
                answers.append(self._whole("go on", "m1", False))
            except openai.APIConnectionError as cut:
                # Its head had come when the replica was killed: nobody can ask for it again unseen.
                if "complete message body" not in str(cut.__cause__):
                    raise
        return answers


def said(stream):
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def outcome(stream):
    try:
        said(stream)
    except (httpx.RemoteProtocolError, openai.APIError):
        return "broken"
    return "whole"


def test_a_killed_replica_costs_no_request_and_breaks_streams_visibly(fleet, balanced, upstream):
    with ThreadPoolExecutor(40) as pool:
        load = Load(balanced, upstream, pool)
        steady = [pool.submit(load.go_on) for _ in range(3)]
        try:
            begun, waiting = load.begin(9), load.wait(12)
            wait_until(lambda: len(load.asked("waiting")) == 12, SLOW_S)
            fleet[0].process.kill()
            wait_until(lambda: len(load.asked("waiting")) > 12, SLOW_S)  # another replica asks again
            before = len(load.asked("go on"))
            wait_until(lambda: len(load.asked("go on")) > before + 10, SLOW_S)
        finally:
            load.release.set()
            load.stop.set()
        assert [each.result(SLOW_S) for each in waiting] == [RIGHT] * 12
        assert {answer for each in steady for answer in each.result(SLOW_S)} == {RIGHT}
        outcomes = dict(zip(begun, pool.map(outcome, begun.values()), strict=True))
    lost = {words for words in begun for exchange in load.asked(words) if exchange.gone.is_set()}
    assert {words for words, found in outcomes.items() if found == "broken"} == lost
    assert set(Counter(outcomes.values())) == {"broken", "whole"}
    assert all(len(load.asked(words)) == 1 for words in begun)  # what has begun is not tried again


def test_a_killed_replicas_response_is_continued_by_another(fleet, balanced, create, upstream):
    upstream.on(draft=[Say("One."), Say("Two.")])
    key = balanced.api_key
    first = fleet[0].proxy.client_with(key).responses.create(model="m1", input="one")
    fleet[0].process.kill()
    second = balanced.responses.create(model="m1", input="two", previous_response_id=first.id)
    assert second.output_text == "Two."
    assert [message["content"] for message in upstream.chats[-1].body["messages"]] == ["one", "One.", "two"]
    fleet[1].proxy.client_with(key).responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        fleet[2].proxy.client_with(key).responses.retrieve(first.id)
