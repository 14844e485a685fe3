"""Client keys: what one may do, how it is made, how it is known again.

A key is `vrd_ID_SECRET`. The ID is no secret: lists show it, and a key is looked up by it. Of the whole key
only the SHA-256 is kept. That is enough because the secret has 256 random bits: nobody can try them all,
so neither salt nor a slow hash adds anything (those protect words that people choose), and a slow one
would cost every request its time.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from fnmatch import fnmatchcase

PREFIX = "vrd_"
_ID_LETTERS = "abcdefghijkmnpqrstuvwxyz23456789"  # none that is taken for another


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A client key as it is kept. Limits are None where there is none; moments are seconds since 1970.

    `models` and `strategies` are patterns (`*`, `?`, `[…]`), empty for all; a model's pattern is tried on
    `MODEL` and on `BACKEND/MODEL`. `digest` is the SHA-256 of the key, in hexadecimal.
    """

    id: str
    name: str
    digest: str = field(repr=False)
    models: tuple[str, ...] = ()
    strategies: tuple[str, ...] = ()
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_month: int | None = None
    admin: bool = False
    created_at: int = 0
    expires_at: int | None = None
    revoked_at: int | None = None

    @property
    def limited(self) -> bool:
        """Whether a limit holds for it."""
        return (self.requests_per_minute, self.tokens_per_minute, self.tokens_per_month) != (None,) * 3

    def is_key(self, digest: str) -> bool:
        """Whether `digest` is this key's; takes the same time for every other."""
        return hmac.compare_digest(self.digest, digest)

    def fault(self, now: float) -> str | None:
        """Why it opens nothing at the moment `now`, if it does not."""
        if self.revoked_at is not None:
            return "This API key has been revoked."
        if self.expires_at is not None and now >= self.expires_at:
            return (
                f"This API key expired on {datetime.fromtimestamp(self.expires_at, UTC):%Y-%m-%d %H:%M} UTC."
            )
        return None

    def allows_model(self, backend: str, model: str) -> bool:
        """Whether it may use a backend's model."""
        return not self.models or _fits(self.models, (model, f"{backend}/{model}"))

    def forbidden(self, strategies: Iterable[str]) -> str | None:
        """The first of the named strategies that it may not use."""
        if not self.strategies:
            return None
        return next((name for name in strategies if not _fits(self.strategies, (name,))), None)


def _fits(patterns: Iterable[str], names: Iterable[str]) -> bool:
    names = tuple(names)
    return any(fnmatchcase(name, pattern) for pattern in patterns for name in names)


def digest_of(key: bytes) -> str:
    """The SHA-256 of a key, in hexadecimal."""
    return hashlib.sha256(key).hexdigest()


def id_in(key: bytes) -> str | None:
    """The ID in a key of our form."""
    prefix, _, rest = key.decode("latin-1").partition("_")
    key_id, _, secret = rest.partition("_")
    return key_id if prefix + "_" == PREFIX and key_id and secret else None


def made(template: ApiKey) -> tuple[str, ApiKey]:
    """A new key with the rights of `template`: its text, which is not kept anywhere, and what is."""
    key_id = "".join(secrets.choice(_ID_LETTERS) for _ in range(8))
    text = f"{PREFIX}{key_id}_{secrets.token_hex(32)}"
    return text, replace(template, id=key_id, digest=digest_of(text.encode()), created_at=int(time.time()))


def named(variable: str, key: str) -> ApiKey:
    """The key that an environment variable holds: no limits, listed under the variable's name."""
    return ApiKey(f"env:{variable}", variable, digest_of(key.encode()))
