"""A folder's records, or a plain word on why there are none."""

from __future__ import annotations

from pathlib import Path

from veridical.evals.records import Record, RecordFile


class CannotReport(Exception):
    """What is in a folder, or asked of it, cannot be reported on; the message is for whoever asked."""


def read(directory: Path) -> list[Record]:
    """All records of a folder.

    Raises:
        CannotReport: there is none, or a line is no record.
    """
    try:
        records = list(RecordFile(directory))
    except ValueError as wrong:
        raise CannotReport(str(wrong)) from None
    if not records:
        raise CannotReport(f"there are no records in {directory}")
    return records
