"""Limits that several replicas share, in Redis (extra `redis`).

The arithmetic is `limiting`'s, by Redis's own clock, in scripts that Redis executes one at a time: no two
replicas give away the same tokens. While Redis does not answer, each replica keeps keys to their limits on
its own: N replicas may then let through up to N times a limit per minute, and a month's budget holds by
what the database has counted. To stop serving would let an outage of a counter stop everybody; to stop
counting would let it lift every limit.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from veridical.middleware.access.keys import ApiKey
from veridical.middleware.access.limiting import REQUESTS, TOKENS, MemoryLimiter, Standing
from veridical.middleware.access.usage import first_of_month, today
from veridical.middleware.errors import log
from veridical.strategies.errors import ConfigError

#: Seconds that Redis gets to answer, and that it is left alone after it did not.
TIMEOUT_S = 1.0
PAUSE_S = 1.0
#: A month's sum is kept this much longer than any month, in seconds.
MONTH_KEPT_S = 40 * 86_400

# KEYS: buckets, month. ARGV: requests per minute, tokens per minute, tokens per month (-1 = no limit).
_LOOK = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local kept = redis.call('HMGET', KEYS[1], 'requests', 'tokens', 'at')
local function filled(level, limit)
  if limit < 0 then return 0 end
  if not level then return limit end
  return math.min(limit, level + (now - kept[3]) * limit / 60)
end
local rpm, tpm, budget = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local requests, tokens = filled(kept[1], rpm), filled(kept[2], tpm)
local function keep()
  local at = string.format('%.6f', now)
  redis.call('HSET', KEYS[1], 'requests', tostring(requests), 'tokens', tostring(tokens), 'at', at)
  local full = 60
  if tpm > 0 then full = full + math.max(0, (tpm - tokens) * 60 / tpm) end
  redis.call('EXPIRE', KEYS[1], math.ceil(full))
end
"""
# ARGV[4]: tokens. Answers: which limit is in the way, seconds to wait, requests, tokens, month's sum.
_TAKE = (
    _LOOK
    + """
local wanted = tonumber(ARGV[4])
local spent = tonumber(redis.call('GET', KEYS[2]) or '0')
local refused, wait = '', 0
local function check(name, level, limit, n)
  local short = math.min(n, limit) - level
  if refused == '' and limit > 0 and short > 0 then refused, wait = name, short * 60 / limit end
end
if budget >= 0 and spent >= budget then
  refused = 'month'
else
  check('requests', requests, rpm, 1)
  check('tokens', tokens, tpm, wanted)
end
if refused == '' then
  requests, tokens = requests - 1, tokens - wanted
  keep()
  if budget >= 0 then
    spent = redis.call('INCRBY', KEYS[2], ARGV[4])
    redis.call('EXPIRE', KEYS[2], ARGV[5])
  end
end
return {refused, tostring(wait), tostring(requests), tostring(tokens), tostring(spent)}
"""
)
# ARGV[4]: tokens more (or, below zero, less) than were taken.
_SETTLE = (
    _LOOK
    + """
if tpm > 0 and kept[3] then
  tokens = math.min(tpm, tokens - ARGV[4])
  keep()
end
if budget >= 0 then
  redis.call('INCRBY', KEYS[2], ARGV[4])
  redis.call('EXPIRE', KEYS[2], ARGV[5])
end
"""
)
# KEYS: month. ARGV: at least this sum.
_LEARN = """
if tonumber(redis.call('GET', KEYS[1]) or '0') < tonumber(ARGV[1]) then
  redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
end
"""


class _Down(Exception):
    """Redis did not answer."""


class RedisLimiter:
    """A `Limiter` at a `redis://` URL, shared by every replica that names the same."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._alone = MemoryLimiter()
        self._silent_until = 0.0
        self._unsettled: dict[ApiKey, int] = {}
        self._unsettled_some = asyncio.Event()
        self._settling: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect.

        Raises:
            ConfigError: it does not answer; at the start that is a fault to be seen.
        """
        try:
            self._redis = redis.asyncio.from_url(
                self._url,
                socket_timeout=TIMEOUT_S,
                socket_connect_timeout=TIMEOUT_S,
                retry=Retry(NoBackoff(), 0),
                decode_responses=True,
            )
            self._take = self._redis.register_script(_TAKE)
            self._settle = self._redis.register_script(_SETTLE)
            self._learn = self._redis.register_script(_LEARN)
            async with self._answering():
                await self._redis.ping()
        except ValueError:
            raise ConfigError("The URL of Redis cannot be read.") from None
        except _Down as down:
            await self._redis.aclose()
            raise ConfigError(f"Redis cannot be used ({down}).") from None
        self._settling = asyncio.create_task(self._settle_on())

    async def close(self) -> None:
        """Settle what is still open, and hang up."""
        if self._settling:
            self._settling.cancel()
            with suppress(asyncio.CancelledError):
                await self._settling
        with suppress(_Down):
            await self._settle_all()
        await self._redis.aclose()

    async def take(self, key: ApiKey, tokens: int) -> Standing:
        """Take one request and `tokens`, or say what is in the way; while Redis is down, on our own."""
        try:
            async with self._answering():
                values = [*_limits(key), tokens, MONTH_KEPT_S]
                refused, wait, *left = await self._take(_names(key), values)
        except _Down:
            return await self._alone.take(key, tokens)
        return _standing(key, refused, float(wait), tokens, *map(float, left))

    def settle(self, key: ApiKey, standing: Standing, spent: int) -> None:
        """Replace what a request holds by what it has spent, soon: no request waits for it."""
        if standing.local:  # Redis has not heard of what was held
            self._alone.settle(key, standing, spent)
        more = spent if standing.local else spent - standing.held
        if more:
            self._unsettled[key] = self._unsettled.get(key, 0) + more
            self._unsettled_some.set()

    async def learn(self, month: str, spent: Mapping[str, int]) -> None:
        """Raise the month's sums to what the database has counted: Redis may have lost them."""
        await self._alone.learn(month, spent)
        with suppress(_Down):
            for key_id, tokens in spent.items():
                async with self._answering():
                    await self._learn([_month_name(key_id, month)], [tokens, MONTH_KEPT_S])

    async def _settle_on(self) -> None:
        while True:
            await self._unsettled_some.wait()
            with suppress(_Down):  # the month's sum is learnt from the database, the minute is soon over
                await self._settle_all()

    async def _settle_all(self) -> None:
        self._unsettled_some.clear()
        unsettled, self._unsettled = self._unsettled, {}
        for key, tokens in unsettled.items():
            async with self._answering():
                await self._settle(_names(key), [*_limits(key), tokens, MONTH_KEPT_S])

    @asynccontextmanager
    async def _answering(self) -> AsyncIterator[None]:
        """Ask Redis, unless it was silent just now; say once that it went and that it came back.

        Raises:
            _Down: it does not answer.
        """
        now = time.monotonic()
        if now < self._silent_until:
            raise _Down("it was silent just now")
        try:
            yield
        except (RedisError, OSError, TimeoutError) as error:
            if not self._silent_until:
                log.warning("Redis is down (%s): limits hold for each replica alone", type(error).__name__)
            self._silent_until = time.monotonic() + PAUSE_S
            raise _Down(type(error).__name__) from None
        if self._silent_until:
            log.warning("Redis is back: limits are shared again")
            self._silent_until = 0.0


def _limits(key: ApiKey) -> list[int]:
    found = (key.requests_per_minute, key.tokens_per_minute, key.tokens_per_month)
    return [-1 if limit is None else limit for limit in found]


def _names(key: ApiKey) -> list[str]:
    """The names under which Redis keeps a key's figures."""
    return [f"veridical:{key.id}:minute", _month_name(key.id, first_of_month(today()))]


def _month_name(key_id: str, month: str) -> str:
    return f"veridical:{key_id}:{month}"


def _standing(
    key: ApiKey,
    refused: str,
    wait: float,
    tokens: int,
    requests_left: float,
    tokens_left: float,
    spent: float,
) -> Standing:
    return Standing(
        refused=refused or None,
        wait_s=wait if refused in (REQUESTS, TOKENS) else None,
        held=0 if refused else tokens,
        requests_left=None if key.requests_per_minute is None else requests_left,
        tokens_left=None if key.tokens_per_minute is None else tokens_left,
        month_left=None if key.tokens_per_month is None else key.tokens_per_month - int(spent),
        local=False,
    )
