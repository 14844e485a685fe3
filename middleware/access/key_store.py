"""Client keys in the state database."""

from __future__ import annotations

import time
from dataclasses import dataclass, fields
from typing import Any

import orjson

from veridical.middleware.access.keys import ApiKey
from veridical.middleware.state.database import Database, Value
from veridical.strategies.errors import NotFound

_COLUMNS = tuple(field.name for field in fields(ApiKey))
_LISTS = frozenset({"models", "strategies"})


@dataclass(frozen=True, slots=True)
class KeyStore:
    """Adds, lists and revokes keys. A key is never changed otherwise and never removed: usage names it."""

    database: Database

    async def mark(self) -> tuple[int, int]:
        """Changes whenever a key is added or revoked: how many there are of each."""
        ((keys, revoked),) = await self.database.fetch("SELECT COUNT(*), COUNT(revoked_at) FROM api_keys")
        return keys, revoked

    async def all(self) -> list[ApiKey]:
        """Every key, revoked ones too, the oldest first."""
        rows = await self.database.fetch(
            f"SELECT {', '.join(_COLUMNS)} FROM api_keys ORDER BY created_at, id"  # noqa: S608 - our own names
        )
        return [_read(row) for row in rows]

    async def add(self, key: ApiKey) -> None:
        """Keep a new key."""
        places = ", ".join("?" * len(_COLUMNS))
        sql = f"INSERT INTO api_keys ({', '.join(_COLUMNS)}) VALUES ({places})"  # noqa: S608 - our own names
        await self.database.write((sql, [[_written(getattr(key, name)) for name in _COLUMNS]]))

    async def revoke(self, key_id: str) -> ApiKey:
        """End a key, given by its ID. One that is revoked already stays as it is.

        Raises:
            NotFound: there is no such key.
        """
        known = {key.id: key for key in await self.all()}
        if key_id not in known:
            raise NotFound("key", key_id, known)
        sql = "UPDATE api_keys SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL"
        await self.database.write((sql, [(int(time.time()), key_id)]))
        return known[key_id]


def _written(value: Any) -> Value:
    if isinstance(value, tuple):
        return orjson.dumps(value).decode()
    return int(value) if isinstance(value, bool) else value


def _read(row: tuple[Any, ...]) -> ApiKey:
    found = dict(zip(_COLUMNS, row, strict=True))
    lists = {name: tuple(orjson.loads(found[name])) for name in _LISTS}
    return ApiKey(**{**found, **lists, "admin": bool(found["admin"])})
