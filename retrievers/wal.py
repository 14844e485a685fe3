"""Write-ahead logging of an SQLite file that several processes may open at once."""

from __future__ import annotations

import sqlite3
import time

#: Seconds between tries.
_SPACING_S = 0.01


def use_wal(connection: sqlite3.Connection, within_s: float) -> None:
    """Have the connection's file write ahead. While another changes to it too, SQLite says that the file is
    locked and does not wait, whatever its time-out: so we do, for `within_s` seconds at most.

    Raises:
        sqlite3.Error: the file cannot be used, or stays locked.
    """
    until = time.monotonic() + within_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            # An extended code, such as SQLITE_BUSY_RECOVERY, has the plain one in its lowest byte.
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                raise
        time.sleep(_SPACING_S)
