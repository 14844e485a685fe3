"""An index folder: a manifest that names one generation of files, and their checksums.

    DIR/index.json        the manifest, replaced in one step when a build is done
    DIR/<generation>/     passages.jsonl, offsets.int64, bm25/, dense/
    DIR/.build/           a build at work, or one that was cut off

A reader opens what the manifest names and never looks at `.build`. Files are never changed once
the manifest names them, so a reader keeps a consistent index while the next one is put in place.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from veridical.retrievers.errors import IndexCorrupt, IndexMismatch, IndexMissing
from veridical.retrievers.passages import PassageStore

MANIFEST = "index.json"
VERSION = 1


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class FileSum(_Strict):
    """What a file must be."""

    size: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Self:
        """Measure a file."""
        with path.open("rb") as file:
            return cls(size=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())


class ChunkingInfo(_Strict):
    """How documents were cut."""

    max_chars: int
    overlap: int


class BM25Info(_Strict):
    """How the BM25 part was made: the query must be analysed in the same way."""

    language: str
    k1: float
    b: float
    terms: int
    postings: int


class DenseInfo(_Strict):
    """How the dense part was made. By `probe`, its vector of a fixed sentence, the model is known again."""

    model: str
    dimension: int
    kind: str
    probe: tuple[float, ...]


class Manifest(_Strict):
    """The content of `index.json`."""

    format: Literal["veridical-index"] = "veridical-index"
    version: int = VERSION
    generation: str = ""
    documents: int
    passages: int
    chunking: ChunkingInfo | None
    bm25: BM25Info | None
    dense: DenseInfo | None
    files: dict[str, FileSum]

    @property
    def fingerprint(self) -> str:
        """Names the content: equal for equal input and settings, so that caches can key on it."""
        content = self.model_dump(mode="json", exclude={"generation"})
        return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read and check the manifest of an index folder."""
        path = folder / MANIFEST
        try:
            found = orjson.loads(path.read_bytes())
        except FileNotFoundError:
            raise IndexMissing(f"No index in {folder}: there is no {MANIFEST}") from None
        except NotADirectoryError:
            raise IndexMissing(f"{folder} is not a folder") from None
        except (OSError, orjson.JSONDecodeError) as error:
            raise IndexCorrupt(f"{path} cannot be read: {error}") from error
        return cls._checked(path, found)

    @classmethod
    def _checked(cls, path: Path, found: Any) -> Self:
        if not isinstance(found, dict) or found.get("format") != "veridical-index":
            raise IndexMismatch(f"{path} does not describe an index of veridical")
        if found.get("version") != VERSION:
            raise IndexMismatch(
                f"{path} has format version {found.get('version')!r}, not {VERSION}: build the index again"
            )
        fingerprint = found.pop("fingerprint", None)
        try:
            manifest = cls.model_validate(found)
        except ValidationError as error:
            raise IndexCorrupt(f"{path} is damaged: {error.error_count()} fields do not fit") from error
        if manifest.fingerprint != fingerprint:
            raise IndexCorrupt(f"{path} is damaged: its content does not fit its fingerprint")
        return manifest

    def write(self, folder: Path) -> None:
        """Put this manifest in place of the one before, in one step."""
        content = {**self.model_dump(mode="json"), "fingerprint": self.fingerprint}
        replace_file(folder / MANIFEST, orjson.dumps(content, option=orjson.OPT_INDENT_2))


@dataclass(frozen=True)
class StoredIndex:
    """An opened index folder: its manifest, its files and its passages."""

    folder: Path
    manifest: Manifest
    passages: PassageStore

    @property
    def files(self) -> Path:
        """The folder of the generation in use."""
        return self.folder / self.manifest.generation

    @classmethod
    def open(cls, folder: Path | str, *, verify: bool = True) -> Self:
        """Open the index in `folder`, having checked that its files are what was built.

        `verify` reads every file once to compare checksums (about a second per gigabyte); without
        it only names and sizes are compared.
        """
        folder = Path(folder)
        manifest = Manifest.read(folder)
        while True:
            try:
                return cls._of(folder, manifest, verify)
            except IndexCorrupt:
                # A build may have put the next generation in place since the manifest was read.
                again = Manifest.read(folder)
                if again.generation == manifest.generation:
                    raise
                manifest = again

    @classmethod
    def _of(cls, folder: Path, manifest: Manifest, verify: bool) -> Self:
        files = folder / manifest.generation
        hold = _hold(files)
        try:
            check_files(files, manifest, verify=verify)
            passages = PassageStore(files)
        except IndexCorrupt:
            os.close(hold)
            raise
        weakref.finalize(passages, os.close, hold)
        if len(passages) != manifest.passages:
            raise IndexCorrupt(f"{folder}: {len(passages)} passages, its manifest says {manifest.passages}")
        return cls(folder, manifest, passages)


def check_files(folder: Path, manifest: Manifest, *, verify: bool) -> None:
    """Raise `IndexCorrupt` for the first file that is gone or not what the manifest says."""
    for name, expected in manifest.files.items():
        path = folder / name
        try:
            size = path.stat().st_size
            if size != expected.size:
                raise IndexCorrupt(f"{path} has {size} bytes, not {expected.size}: build the index again")
            if verify and FileSum.of(path) != expected:
                raise IndexCorrupt(f"{path} is damaged (its checksum differs): build the index again")
        except OSError as error:
            raise IndexCorrupt(f"{path} cannot be read ({error.strerror}): build the index again") from error


def publish(folder: Path, built: Path, manifest: Manifest) -> Manifest:
    """Make the files in `built` the index of `folder`: at any moment either the old or the new one stands."""
    manifest = manifest.model_copy(update={"generation": _unused_name(folder, manifest.fingerprint[:12])})
    for path in built.rglob("*"):
        if path.is_file():
            _sync(path)
    built.rename(folder / manifest.generation)
    manifest.write(folder)
    for other in folder.iterdir():
        if other.is_dir() and other.name != manifest.generation and _is_generation(other.name):
            _remove_unused(other)
    return manifest


def _hold(files: Path) -> int:
    """Keep a generation from being removed until the descriptor is closed."""
    try:
        descriptor = os.open(files, os.O_RDONLY)
    except OSError as error:
        raise IndexCorrupt(f"{files} cannot be read ({error.strerror}): build the index again") from error
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def _remove_unused(files: Path) -> None:
    """Remove an old generation; one that a reader holds is left for the next build."""
    descriptor = os.open(files, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    else:
        shutil.rmtree(files, ignore_errors=True)
    finally:
        os.close(descriptor)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, and a crash leaves one of them."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_bytes(content)
    _sync(fresh)
    fresh.replace(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unused_name(folder: Path, stem: str) -> str:
    number = 1
    while (folder / f"{stem}.{number}").exists():
        number += 1
    return f"{stem}.{number}"


def _is_generation(name: str) -> bool:
    stem, _, number = name.partition(".")
    return len(stem) == 12 and number.isdigit()
