"""How records were made: `run.json` beside them, one entry per command that added to them."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import orjson

from veridical.evals.wording import versions

RUN = "run.json"
_PACKAGES = ("veridical", "inspect-ai", "openai", "xllamacpp", "vllm", "bm25s", "rouge-score", "sacrebleu")


def provenance() -> dict[str, Any]:
    """Versions, the commit, the prompts' hashes and the command of this process."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command(sys.argv[1:]),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: found for name in _PACKAGES if (found := _version(name))},
        "commit": commit(),
        "prompts": versions("veridical.evals", "veridical.strategies"),
    }


def command(words: Sequence[str]) -> str:
    """The command as typed, with folders above a file left out: they belong to the machine, not the run."""
    shown = [Path(word).name if word.startswith(("/", "~")) else word for word in words]
    return shlex.join(["veridical", *shown])


def file_hash(path: Path) -> dict[str, Any]:
    """A file's name and sha256, for a configuration or a model."""
    with path.open("rb") as file:
        return {"name": path.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def commit() -> str | None:
    """The git commit that the code is at, with "+" where files differ from it; None outside a checkout."""
    folder = Path(__file__).resolve().parent
    told = _git(folder, "rev-parse", "HEAD")
    changed = told and _git(folder, "status", "--porcelain", "--untracked-files=no")
    return f"{told}+" if told and changed else told


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603 - fixed words
            ["git", "-C", str(folder), *words],  # noqa: S607
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def begin(out: Path, entry: dict[str, Any]) -> int:
    """Add an entry to `run.json` before anything is asked, so that a killed run has one; its number."""
    known = _known(out)
    known["runs"].append(entry)
    store(out / RUN, known)
    return len(known["runs"]) - 1


def finish(out: Path, number: int, **told: Any) -> None:
    """Add to an entry how it ended."""
    known = _known(out)
    known["runs"][number] |= told
    store(out / RUN, known)


def _known(out: Path) -> dict[str, Any]:
    path = out / RUN
    found: dict[str, Any] = orjson.loads(path.read_bytes()) if path.exists() else {"runs": []}
    return found


def store(path: Path, value: Any) -> None:
    """Write JSON so that a kill leaves either the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".part")
    half.write_bytes(orjson.dumps(value, option=orjson.OPT_INDENT_2) + b"\n")
    half.replace(path)
