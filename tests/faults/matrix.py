"""Faults by strategies by moments by forms of answer: what is asked, and what came of it."""

import asyncio
import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any
from uuid import uuid4

import aiohttp

from veridical.strategies.registry import BUILT_IN
from veridical.tests.faults.faulty import FAULTS

#: Every strategy that is built in, with options that make it go all its way, and a pipe.
ALL_THE_WAY = {"cok": "cok(threshold=1.01)", "debate": "debate(rounds=2)"}
STRATEGIES = [*(ALL_THE_WAY.get(name, name) for name in BUILT_IN), "cok(threshold=1.01)|critic"]
MOMENTS = ("always", "later", "once")
NAMES = ("refuse", *FAULTS)
#: A drip never falls silent: the request's own deadline ends it.
DEADLINES_S = {"drip": 2.0}
#: Seconds behind a deadline, or behind every time-out and retry, by which an answer must be there.
#: A proxy that hangs never comes: the rest is for a busy machine.
GRACE_S = 40.0

ANSWER, DEGRADED, AS_SENT, CUT = "answer", "degraded", "as sent", "cut"
_SOUND = re.compile(r"The capital of Australia is Canberra, says answer \d+\.|Canberra")
_DIGIT = re.compile(r"\d")
_STATUS = {
    "backend_failed": 502,
    "backend_unreachable": 502,
    "backend_refused": 502,
    "unparsable_output": 502,
    "backend_timeout": 504,
    "deadline_exceeded": 504,
    "rate_limit_exceeded": 429,
    **{f"upstream_{status}": status for status in (403, 429)},  # the backend's own words are passed on
}


@dataclass(frozen=True, order=True)
class Case:
    """One request: which fault, met by which strategy, at which of its calls, in which form."""

    fault: str
    strategy: str
    when: str = "always"
    streamed: bool = False

    @property
    def headers(self) -> dict[str, str]:
        return {"x-case": uuid4().hex, "x-fault": self.fault, "x-when": self.when}

    @property
    def body(self) -> dict[str, Any]:
        messages = [{"role": "user", "content": "What is the capital of Australia?"}]
        model = "nobody" if self.fault == "refuse" else "m1"
        body = {"model": model, "messages": messages, "strategy": self.strategy, "stream": self.streamed}
        if self.fault in DEADLINES_S:
            body["veridical"] = {"budget": {"deadline_s": DEADLINES_S[self.fault]}}
        return body


@dataclass
class Came:
    """What came of a case: the outcome in a word, and what went against the rules."""

    outcome: str
    text: str = ""
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)


def cases(faults: Iterable[str] = NAMES, strategies: Iterable[str] = STRATEGIES) -> list[Case]:
    """All that make sense: `direct` has one call, and where nobody listens it is so at every call."""
    found = (Case(*each) for each in product(faults, strategies, MOMENTS, (False, True)))
    return [case for case in found if case.when == "always" or not _is_alike(case)]


def _is_alike(case: Case) -> bool:
    return case.strategy == "direct" or case.fault == "refuse"


async def run(url: str, asked: Sequence[Case], at_once: int = 16) -> dict[Case, Came]:
    """Ask every case of the proxy at `url`, and judge what came by what comes without a fault."""
    gate = asyncio.Semaphore(at_once)
    once = aiohttp.TCPConnector(force_close=True)  # or a connection may end just as it is used again
    async with aiohttp.ClientSession(connector=once, timeout=aiohttp.ClientTimeout(total=120)) as session:

        async def one(case: Case) -> Came:
            async with gate:
                return await ask(session, url, case)

        sound = sorted({Case("none", case.strategy, "always", case.streamed) for case in asked})
        whole = dict(zip(sound, await asyncio.gather(*map(one, sound)), strict=True))
        assert all(came.outcome == ANSWER and not came.wrong for came in whole.values()), whole
        found = dict(zip(asked, await asyncio.gather(*map(one, asked)), strict=True))
    for case, came in found.items():
        expected = whole[Case("none", case.strategy, "always", case.streamed)].text
        if came.outcome == ANSWER and came.text != expected:
            came.wrong.append(f"another answer: {came.text!r}, not {expected!r}")
        if came.seconds > DEADLINES_S.get(case.fault, 0) + GRACE_S:
            came.wrong.append(f"took {came.seconds:.1f} s")
    return found


async def ask(session: aiohttp.ClientSession, url: str, case: Case) -> Came:
    """Ask one case; nothing that the proxy does is an exception here."""
    started = time.monotonic()
    asked = session.post(
        f"{url}/chat/completions", json=case.body, headers=case.headers, allow_redirects=False
    )
    async with asked as response:
        raw, is_whole = b"", True
        try:
            async for part in response.content.iter_any():
                raw += part
        except aiohttp.ClientPayloadError:
            is_whole = False
        came = _judged(case, response, raw, is_whole)
    came.seconds = time.monotonic() - started
    return came


def _judged(case: Case, response: aiohttp.ClientResponse, raw: bytes, is_whole: bool) -> Came:
    relayed = case.strategy == "direct" and case.fault not in DEADLINES_S
    if not is_whole:
        return Came(CUT, wrong=[] if relayed else ["the connection broke"])
    if response.status != 200:
        return _refused(response, raw, relayed)
    try:
        if case.streamed and response.content_type == "text/event-stream":
            return _streamed(raw, relayed)
        return _whole(json.loads(raw), relayed)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        return Came(AS_SENT, wrong=[] if relayed else [f"no answer: {error!r} in {raw[:200]!r}"])


def _refused(response: aiohttp.ClientResponse, raw: bytes, relayed: bool) -> Came:
    """An error is in OpenAI's shape, says something, and never that we failed."""
    try:
        (error,) = json.loads(raw).values()
        sound = error.keys() >= {"message", "type", "param", "code"} and bool(error["message"])
    except (ValueError, AttributeError):
        sound, error = False, {}
    if not sound:
        return Came(AS_SENT, wrong=[] if relayed else [f"no error object: {raw[:200]!r}"])
    wrong = ["the proxy failed"] if error["code"] == "internal_error" else []
    return Came(str(response.status), wrong=wrong)


def _whole(found: Any, relayed: bool) -> Came:
    if "error" in found:
        return Came(AS_SENT, wrong=[] if relayed else ["a 200 with an error"])
    text = found["choices"][0]["message"]["content"]
    return _answered(text, found.get("veridical"), relayed)


def _streamed(raw: bytes, relayed: bool) -> Came:
    data = [line[6:] for line in raw.split(b"\n") if line.startswith(b"data: ")]
    chunks = [json.loads(each) for each in data if each != b"[DONE]"]
    pieces = [c["choices"][0]["delta"].get("content") or "" for c in chunks if c.get("choices")]
    text, errors = "".join(pieces), [chunk["error"] for chunk in chunks if "error" in chunk]
    if errors and errors[0].get("code") in _STATUS:
        begun = "The capital of Australia is Canberra, says answer 000.".startswith(_DIGIT.sub("0", text))
        return Came(str(_STATUS[errors[0]["code"]]), text, wrong=[] if begun else [f"half a text {text!r}"])
    if errors or data[-1] != b"[DONE]":
        return Came(AS_SENT, text, wrong=[] if relayed else [f"a bad end: {raw[-200:]!r}"])
    trails = [chunk["veridical"] for chunk in chunks if "veridical" in chunk]
    return _answered(text, trails[-1] if trails else None, relayed)


def _answered(text: str, trail: Mapping[str, Any] | None, relayed: bool) -> Came:
    wrong = [] if _SOUND.fullmatch(text or "") else [f"an answer that nobody gave: {text!r}"]
    if trail is None:
        return Came(AS_SENT if wrong else ANSWER, text, wrong=[] if relayed else [*wrong, "no trail"])
    if trail["status"] != "degraded":
        return Came(ANSWER, text, wrong=wrong)
    return Came(DEGRADED, text, wrong=wrong if trail["notes"] else [*wrong, "degraded without a reason"])
