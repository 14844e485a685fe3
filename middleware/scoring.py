"""A toxicity score from a service on the net: Perspective's JSON, or OpenAI's moderations."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import aiohttp
import orjson

from veridical.strategies.errors import ToolFailed
from veridical.strategies.tools.base import Score, Scorer

#: Perspective's production attributes; `TOXICITY` is the score over all.
ATTRIBUTES = ("TOXICITY", "SEVERE_TOXICITY", "IDENTITY_ATTACK", "INSULT", "PROFANITY", "THREAT")
MAX_ANSWER_BYTES = 1_000_000


@dataclass(frozen=True)
class ScoringService(Scorer):
    """Sends each text to `url` and reads the scores of the answer. Redirects are not followed."""

    session: Callable[[], aiohttp.ClientSession]
    url: str
    api: Literal["perspective", "moderations"] = "perspective"
    key: str | None = field(default=None, repr=False)
    threshold: float = 0.1
    timeout_s: float = 20.0

    async def score(self, text: str) -> Score:
        """The service's score.

        Raises:
            ToolFailed: it refused, did not answer in time, or answered something else.
        """
        try:
            async with asyncio.timeout(self.timeout_s):
                status, raw = await self._posted(self._body(text))
        except TimeoutError:
            raise ToolFailed(f"The scoring service did not answer in {self.timeout_s:g} s.") from None
        except aiohttp.ClientError as error:
            raise ToolFailed(f"The scoring service failed ({type(error).__name__}).") from error
        if status != 200:
            raise ToolFailed(f"The scoring service answered {status}.")
        try:
            found = orjson.loads(raw)
            return _perspective(found) if self.api == "perspective" else _moderations(found)
        except (ValueError, TypeError, LookupError, AttributeError):
            raise ToolFailed("The scoring service's answer holds no scores.") from None

    async def _posted(self, body: Mapping[str, Any]) -> tuple[int, bytes]:
        async with self.session().post(
            self.url, data=orjson.dumps(body), headers=self._headers(), allow_redirects=False
        ) as response:
            raw = b""
            async for chunk in response.content.iter_any():
                raw += chunk
                if len(raw) > MAX_ANSWER_BYTES:
                    break
            return response.status, raw

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json"}
        if self.key and self.api == "perspective":
            headers["X-Goog-Api-Key"] = self.key
        elif self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        return headers

    def _body(self, text: str) -> dict[str, Any]:
        if self.api == "moderations":
            return {"input": text}
        wanted: dict[str, Any] = {name: {} for name in ATTRIBUTES}
        return {"comment": {"text": text}, "requestedAttributes": wanted, "doNotStore": True}


def _perspective(found: Any) -> Score:
    scores = {
        name.lower(): _probability(each["summaryScore"]["value"])
        for name, each in found["attributeScores"].items()
    }
    return Score(scores["toxicity"], scores)


def _moderations(found: Any) -> Score:
    scores = {name: _probability(value) for name, value in found["results"][0]["category_scores"].items()}
    return Score(max(scores.values()), scores)


def _probability(value: Any) -> float:
    number = float(value)
    if not 0 <= number <= 1:
        raise ValueError(value)
    return number
