"""What an evaluation leaves behind: one record per question and strategy, in a file that only grows.

`DIR/records.jsonl` holds no data-set text, only ids, the model's words and figures, so that it can be
kept beside the code; a run resumes from it on any machine. `DIR/run.json` says how they were made.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import orjson
import pydantic

RECORDS = "records.jsonl"


class Record(pydantic.BaseModel):
    """One question answered by one strategy and scored.

    `setting` tells variants of a task apart ("closed_book", "distractor"), `variant` strategies that
    share an expression but not their conditions (for instance another temperature). `group` is shared by
    questions that are not independent (one article, one entity): intervals are clustered by it.
    `scores` are in [0, 1] unless the task says otherwise; the task's headline metric comes first.
    `graded` is false where the answer could not be scored: `scores` is then empty and `error` says why.
    `calls` and tokens are those of all backend calls; `depth` those on the longest chain. `cached_calls`
    of them were answered by a cache; their tokens are in the sums, but there are no `seconds` then.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    task: str
    setting: str = ""
    model: str
    strategy: str
    variant: str = ""
    id: str
    sample: int = 0
    group: str | None = None
    tags: tuple[str, ...] = ()
    answer: str = ""
    scores: dict[str, float] = {}
    graded: bool = True
    parsed: bool = True
    status: str = ""
    error: str | None = None
    confidence: float | None = None
    calls: int | None = None
    cached_calls: int | None = None
    depth: int | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    seconds: float | None = None

    @property
    def key(self) -> tuple[str, str, str, str, str, str, int]:
        """What makes it one of its kind: a record of the same key replaces an earlier one."""
        return (self.task, self.setting, self.model, self.strategy, self.variant, self.id, self.sample)


class RecordFile:
    """Records appended one line at a time, each on the disk before the next sample begins.

    A line that a killed process left half written is ignored when it is the last, an error elsewhere.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / RECORDS

    def append(self, record: Record) -> None:
        """Add one; it survives whatever happens next."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._mend()
        with self.path.open("ab") as file:
            file.write(orjson.dumps(record.model_dump(mode="json")) + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _mend(self) -> None:
        """Drop the half of a line that a killed process left."""
        if not self.path.exists():
            return
        with self.path.open("rb+") as file:
            data = file.read()
            if data and not data.endswith(b"\n"):
                file.truncate(data.rfind(b"\n") + 1)

    def __iter__(self) -> Iterator[Record]:
        """The latest record of each key, in the order of their first appearance.

        Raises:
            ValueError: a line that is no record; names its number.
        """
        found: dict[tuple[object, ...], Record] = {}
        for record in self._lines():
            found[record.key] = record
        return iter(found.values())

    def _lines(self) -> Iterator[Record]:
        if not self.path.exists():
            return
        lines = self.path.read_bytes().split(b"\n")
        for number, line in enumerate(lines[:-1], 1):  # behind the last newline there is nothing whole
            try:
                yield Record.model_validate_json(line)
            except pydantic.ValidationError as wrong:
                raise ValueError(f"{self.path.name}, line {number}: {wrong.errors()[0]['msg']}") from None
