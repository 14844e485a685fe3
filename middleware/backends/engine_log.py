"""The log of an engine: written by the engine itself, kept short by us."""

from __future__ import annotations

import logging
import os
from pathlib import Path

log = logging.getLogger(__name__)
#: Read at once.
CHUNK_BYTES = 1 << 20


def trim(file: Path, limit: int) -> None:
    """Where `file` is over `limit` bytes, keep its last `limit` as NAME.1 and empty it.

    The engine holds the file open for appending, so it is emptied and not moved; what is written in
    that moment may be lost. A failure leaves it as it is, with a warning.
    """
    try:
        size = file.stat().st_size
        if size <= limit:
            return
        with file.open("rb") as full, file.with_name(f"{file.name}.1").open("wb") as older:
            full.seek(size - limit)
            left = limit  # and no more, though the engine may write on
            while left and (part := full.read(min(left, CHUNK_BYTES))):
                older.write(part)
                left -= len(part)
        os.truncate(file, 0)
    except OSError as error:
        log.warning("The engine log %s cannot be cut: %s", file, error.strerror)
