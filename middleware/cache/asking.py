"""What a request says of the cache, which of its calls may be kept, and when two are equal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b

import orjson

from veridical.middleware.backends.openai_http import CREDENTIALS
from veridical.middleware.cache.cache import Cache
from veridical.middleware.protocol import CacheRequest
from veridical.middleware.routing import Mounted
from veridical.strategies.backend import ChatRequest
from veridical.strategies.types import Params

#: Raised when what a key is made of, or what lies under it, changes.
VERSION = 1
#: Headers of a client that change no answer; all others that a backend gets to see are part of the key.
_NEUTRAL = frozenset(
    {"accept", "accept-language", "user-agent", "cache-control", "pragma", "referer", "origin", "priority"}
    | {"traceparent", "tracestate", "baggage", "x-cloud-trace-context", "idempotency-key", "x-irid"}
    | {"forwarded", "via", "x-real-ip", "dnt"}
)
_NEUTRAL_PREFIXES = ("x-stainless-", "x-forwarded-", "x-b3-", "sec-")
_NEUTRAL_SUFFIXES = ("request-id", "correlation-id", "trace-id")


@dataclass(frozen=True, slots=True)
class Caching:
    """One request's use of the cache: `refresh` asks anew and keeps what comes, `sampled` keeps draws at
    a temperature too, `sample` numbers draws of equal requests."""

    cache: Cache
    refresh: bool = False
    sampled: bool = False
    sample: int = 0

    def takes(self, params: Params) -> bool:
        """Whether a call with these parameters may be kept: one that asks for the same answer each time,
        unless draws are wanted too. OpenAI's default temperature is 1, so an absent one is a draw. A call
        with `store` is to leave something with the backend: it is always made."""
        temperature, seed = params.get("temperature"), params.get("seed")
        greedy = isinstance(temperature, int | float) and temperature == 0 and temperature is not False
        seeded = isinstance(seed, int) and not isinstance(seed, bool)
        return not params.get("store") and (greedy or seeded or self.sampled)

    def key(self, mounted: Mounted, request: ChatRequest, relayed: object = None) -> str:
        """What equal calls have in common, as a hash: the backend and its settings, the headers that it
        sees (credentials among them, where they are forwarded), model, messages, parameters, sample.

        `relayed` tells apart answers that are kept as a stream's bytes.
        """
        seen = sorted(_seen(mounted, request.headers).items())
        place = [VERSION, self.cache.identities[mounted.name], seen, self.sample, relayed]
        return blake2b(orjson.dumps(place) + request.draw, digest_size=32).hexdigest()


def caching(cache: Cache | None, headers: Mapping[str, str], asked: CacheRequest) -> Caching | None:
    """How a request uses the cache; None where it does not, or there is none."""
    if cache is None:
        return None
    told = headers.get("cache-control", headers.get("pragma", ""))
    directives = {each.strip().lower() for each in told.split(",")}
    if "no-store" in directives:
        return None
    sampled = cache.sampled if asked.sampled is None else asked.sampled
    return Caching(cache, bool(directives & {"no-cache", "max-age=0"}), sampled, asked.sample)


def _seen(mounted: Mounted, headers: Mapping[str, str]) -> dict[str, str]:
    """The client's headers that may make a backend answer otherwise; only HTTP backends get any."""
    http = mounted.http
    if http is None:
        return {}
    return {
        name: value
        for name, value in headers.items()
        if name not in _NEUTRAL
        and not name.startswith(_NEUTRAL_PREFIXES)
        and not name.endswith(_NEUTRAL_SUFFIXES)
        and (http.forwards_authorization or name not in CREDENTIALS)
    }
