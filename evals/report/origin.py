"""What `run.json` tells: how the records were made, who judged, and what a strategy was allowed to read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from veridical.evals.report.reading import CannotReport

RUN = "run.json"
VALIDATION = "judge_validation"


@dataclass(frozen=True)
class Origin:
    """The manifest of a run; every field is optional, older runs have fewer.

    Read from it, at the top or in an entry of `runs`: `judge` (a name, or an object with `model` and
    `prompt_hash`), `judge_validation` (an object with `agreement` and `n`) and `reads_scorer_source`
    (the strategies that retrieve from what the scorer checks against).
    """

    manifest: Mapping[str, Any]

    @classmethod
    def of(cls, directory: Path) -> Origin:
        """The one of a folder; empty where there is none.

        Raises:
            CannotReport: `run.json` holds no JSON object.
        """
        path = directory / RUN
        if not path.exists():
            return cls({})
        try:
            manifest = orjson.loads(path.read_bytes())
        except orjson.JSONDecodeError as wrong:
            raise CannotReport(f"{path.name}: {wrong}") from None
        if not isinstance(manifest, Mapping):
            raise CannotReport(f"{path.name} holds no JSON object")
        return cls(manifest)

    @property
    def entries(self) -> list[Mapping[str, Any]]:
        """The manifest itself, then each command that added records."""
        return [self.manifest, *(run for run in self.manifest.get("runs", ()) if isinstance(run, Mapping))]

    def _values(self, name: str) -> Iterator[Any]:
        yield from (entry[name] for entry in self.entries if entry.get(name))

    def reads_scorer_source(self, strategy: str) -> bool:
        """Whether this strategy reads what the scorer checks it against."""
        return any(
            named.get(strategy) if isinstance(named, Mapping) else strategy in named
            for named in self._values("reads_scorer_source")
        )

    @property
    def judges(self) -> list[str]:
        """Each judge that graded, once: its model and what else is told of it. A run that validated one
        graded nothing."""
        graded = [run["judge"] for run in self.entries[1:] if run.get("judge") and not run.get(VALIDATION)]
        own = [self.manifest["judge"]] if self.manifest.get("judge") else []
        return list(dict.fromkeys(map(_judge, own + graded)))

    def _validations(self, judge: str) -> list[Mapping[str, Any]]:
        """Those of this very judge, prompts included, or of whatever judge where none is named."""
        return [
            run[VALIDATION]
            for run in self.entries
            if run.get(VALIDATION) and (not run.get("judge") or _judge(run["judge"]) == judge)
        ]

    @property
    def judge_validated(self) -> bool:
        """Whether somebody measured every judge on labelled data."""
        return all(self._validations(judge) for judge in self.judges)

    @property
    def judge_line(self) -> str | None:
        """What a report must say first; `None` where no judge was used."""
        if not self.judges:
            return None
        never = [judge for judge in self.judges if not self._validations(judge)]
        if never:
            return f"These scores rest on a judge that was never validated: {' and '.join(never)}."
        told = [f"{judge}: {'; '.join(map(_validation, self._validations(judge)))}" for judge in self.judges]
        return f"Validated judge {'. Validated judge '.join(told)}."

    @property
    def commands(self) -> list[str]:
        """The commands that added records, each with its time and commit."""
        return [
            ", ".join(str(run[name]) for name in ("command", "started", "commit") if run.get(name))
            for run in self.entries
            if run.get("command")
        ]


def _judge(judge: Any) -> str:
    if not isinstance(judge, Mapping):
        return str(judge)
    rest = [f"{name.replace('_', ' ')} {judge[name]}" for name in sorted(judge) if name != "model"]
    return f"{judge.get('model', 'unnamed')}" + (f" ({', '.join(rest)})" if rest else "")


def _validation(found: Mapping[str, Any]) -> str:
    """The agreement first, as a percentage; any further figures behind it."""
    agreement, n = found.get("agreement"), found.get("n")
    words = [f"{agreement:.1%} agreement"] if isinstance(agreement, float | int) else []
    words += [f"on {n} labels"] if n is not None else []
    rest = [
        f"{name.replace('_', ' ')} {found[name]}" for name in sorted(found) if name not in ("agreement", "n")
    ]
    return " ".join(words) + (", " if words and rest else "") + ", ".join(rest)
