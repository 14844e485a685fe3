"""Where a task's questions come from: a folder of files, or the data set's official hub id."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inspect_ai.dataset import Sample

from veridical.strategies.errors import VeridicalError

FOLDER = "VERIDICAL_DATA"
Row = dict[str, Any]


class DataMissing(VeridicalError):
    """A task's file is not where it should be; the message names both ways to provide it."""

    code = "data_missing"


@dataclass(frozen=True)
class Source:
    """Where rows lie: `files` under the data folder (the first that is there counts), and on the hub."""

    files: tuple[str, ...]
    hub: str | None = None
    config: str | None = None
    split: str = "validation"

    @property
    def official(self) -> str:
        """The hub id in words."""
        return " ".join(filter(None, (self.hub, self.config, f"split {self.split}"))) if self.hub else "none"


@dataclass(frozen=True)
class Rows:
    """Rows as they were read, and what they were read from."""

    rows: list[Row]
    origin: str
    sha256: str | None = None


def read(source: Source, data: str | None = None) -> Rows:
    """The rows of a source, from `data`, the folder in VERIDICAL_DATA, or else from the hub.

    Raises:
        DataMissing: neither has it.
    """
    folder = data or os.environ.get(FOLDER)
    if not folder:
        return _from_hub(source)
    file = located(source.files, folder)
    if file is None:
        raise DataMissing(
            f"{folder} has none of {', '.join(source.files)}. Give a folder that has, by --data DIR or "
            f"{FOLDER}, or leave both out to load the official data set ({source.official})."
        )
    raw = file.read_bytes()
    origin = str(file.relative_to(folder)).replace(os.sep, "/")
    return Rows(parsed(file.name, raw), origin, hashlib.sha256(raw).hexdigest())


def located(files: Iterable[str], folder: str) -> Path | None:
    """The first of `files` that the folder has, plain or compressed."""
    names = (name + end for name in files for end in ("", ".gz"))
    return next((path for path in (Path(folder) / name for name in names) if path.is_file()), None)


def parsed(name: str, raw: bytes) -> list[Row]:
    """The rows of a .jsonl, .json or .csv file, plain or gzip, told by its name."""
    if name.endswith(".gz"):
        name, raw = name.removesuffix(".gz"), gzip.decompress(raw)
    text = raw.decode("utf-8-sig")
    if name.endswith(".csv"):
        return list(csv.DictReader(io.StringIO(text, newline="")))
    if name.endswith(".jsonl"):
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    found: list[Row] = json.loads(text)
    return found


def _from_hub(source: Source) -> Rows:
    advice = f"Give a folder that has {source.files[0]} by --data DIR or {FOLDER}"
    if not source.hub:
        raise DataMissing(f"This data set has no official hub id. {advice}.")
    try:
        import datasets
    except ImportError as missing:
        raise DataMissing(
            f"{advice}, or install the extra 'hub' to load {source.official}: pip install 'veridical[hub]'."
        ) from missing
    try:
        loaded = datasets.load_dataset(source.hub, source.config, split=source.split)
    except (OSError, ValueError) as failure:  # no network, no such data set
        raise DataMissing(
            f"{source.official} cannot be loaded ({type(failure).__name__}). {advice}."
        ) from failure
    return Rows([dict(row) for row in loaded], f"hub:{source.official}")


def identifier(*words: str) -> str:
    """An id for a question whose data set gives none: it depends on the words alone."""
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:12]


def question(
    name: str,
    prompt: str,
    *,
    target: str | Sequence[str] = "",
    group: str | None = None,
    tags: Sequence[str] = (),
    **known: Any,
) -> Sample:
    """One sample: `group` is shared by what is not independent, `known` is what only the scorer sees."""
    metadata = {"id": name, "group": group, "tags": list(tags), **known}
    return Sample(
        id=name, input=prompt, target=target if isinstance(target, str) else list(target), metadata=metadata
    )


def distinct(samples: Iterable[Sample]) -> list[Sample]:
    """The samples without those whose id came before: a question twice in a file counts once."""
    found: dict[Any, Sample] = {}
    for sample in samples:
        found.setdefault(sample.id, sample)
    return list(found.values())
