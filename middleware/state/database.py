"""The database that state is kept in: SQL that SQLite and PostgreSQL read alike, two methods, migrations.

Parameters are written `?`. Values are text, integers and bytes (moments are whole seconds since 1970, lists
are JSON), so that a row means the same in both.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Protocol

from veridical.middleware.errors import StateUnavailable
from veridical.middleware.state.schema import MIGRATIONS, VERSIONS
from veridical.strategies.errors import ConfigError

Value = str | int | bytes | None
#: One SQL statement, and the rows of parameters that it is executed with, once for each.
Statement = tuple[str, Sequence[Sequence[Value]]]


class Database(Protocol):
    """A database. Opened and closed once, inside one event loop."""

    async def open(self) -> None:
        """Connect, and bring the schema up to date.

        Raises:
            ConfigError: it cannot be reached, or a newer version of the program has changed it.
        """
        ...

    async def close(self) -> None:
        """Give the connections back."""
        ...

    async def fetch(self, sql: str, *values: Value) -> list[tuple[Any, ...]]:
        """The rows of a query.

        Raises:
            StateUnavailable: the database failed.
        """
        ...

    async def write(self, *statements: Statement) -> None:
        """Execute the statements in one transaction: all of them or none.

        Raises:
            StateUnavailable: the database failed.
        """
        ...


async def migrate(database: Database) -> None:
    """Bring the schema up to date; several processes may try at once.

    Each step is one transaction that begins with its number, which only one process can insert.

    Raises:
        ConfigError: the schema is of a newer version than this program knows.
        StateUnavailable: the database failed.
    """
    try:
        await database.write((VERSIONS, [()]))
    except StateUnavailable:  # PostgreSQL does not let two make a table at once, IF NOT EXISTS or not
        await _version(database)
    while (at := await _version(database)) < len(MIGRATIONS):
        numbered: Statement = ("INSERT INTO schema_versions VALUES (?, ?)", [(at + 1, int(time.time()))])
        try:
            await database.write(numbered, *((sql, [()]) for sql in MIGRATIONS[at]))
        except StateUnavailable:
            if await _version(database) == at:  # nobody else has made the step either
                raise
    if at > len(MIGRATIONS):
        raise ConfigError(f"The state is of schema {at}; this version knows {len(MIGRATIONS)}: upgrade it.")


async def _version(database: Database) -> int:
    ((version,),) = await database.fetch("SELECT COALESCE(MAX(version), 0) FROM schema_versions")
    return int(version)
