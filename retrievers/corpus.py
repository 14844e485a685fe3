"""The input of an index build: JSON Lines, plain or gzip, read as a stream."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import orjson

from veridical.retrievers.errors import CorpusInvalid

#: A longer line is taken for a file that is no JSON Lines at all, before it fills the memory.
LONGEST_LINE = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Record:
    """A document of the corpus. `id` is its line number, from 1, where the input gives none."""

    line: int
    id: str
    title: str
    text: str
    url: str


@dataclass(frozen=True)
class Corpus:
    """A file of JSON objects, one a line: `text`, and if known `id`, `title`, `url`; others are ignored."""

    path: Path

    def identity(self) -> dict[str, Any]:
        """What tells this file from another without reading it whole: size, time, first megabyte."""
        try:
            with self.path.open("rb") as file:
                head = hashlib.sha256(file.read(1 << 20)).hexdigest()
            stat = self.path.stat()
        except OSError as error:
            raise CorpusInvalid(f"Cannot read {self.path}: {error.strerror}") from error
        return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "head": head}

    def records(self, after: int = 0) -> Iterator[tuple[Record, int]]:
        """The documents behind line `after`, each with the bytes of the file read so far.

        Blank lines and documents without text are passed over.
        """
        with self.path.open("rb") as raw, self._plain(raw) as lines:
            for number, line in self._lines(lines):
                if number > after and line.strip():
                    record = self._record(number, line)
                    if record.text:
                        yield record, raw.tell()

    def _plain(self, raw: IO[bytes]) -> IO[bytes]:
        zipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        return cast("IO[bytes]", gzip.open(raw)) if zipped else raw

    def _lines(self, lines: IO[bytes]) -> Iterator[tuple[int, bytes]]:
        number = 0
        try:
            while line := lines.readline(LONGEST_LINE):
                number += 1
                if len(line) == LONGEST_LINE:
                    raise CorpusInvalid(f"{self.path}, line {number}: longer than {LONGEST_LINE:,} bytes")
                yield number, line
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise CorpusInvalid(f"{self.path}: damaged gzip data after line {number}") from error

    def _record(self, number: int, line: bytes) -> Record:
        try:
            found = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise CorpusInvalid(f"{self.path}, line {number}: not JSON ({error})") from error
        if not isinstance(found, dict):
            raise CorpusInvalid(f"{self.path}, line {number}: not a JSON object")
        if not isinstance(found.get("text"), str):
            raise CorpusInvalid(f'{self.path}, line {number}: no string "text"')
        identity = found.get("id")
        return Record(
            number,
            str(number if identity is None or identity == "" else identity),
            self._string(number, found, "title"),
            found["text"].strip(),
            self._string(number, found, "url"),
        )

    def _string(self, number: int, found: dict[str, Any], key: str) -> str:
        value = found.get(key)
        if value is not None and not isinstance(value, str):
            raise CorpusInvalid(f'{self.path}, line {number}: "{key}" is not a string')
        return value or ""
