"""`veridical eval report`: what a run's records say, as Markdown, HTML, CSV and JSON."""

from __future__ import annotations

import shutil
from pathlib import Path

from veridical.evals.report import files, pages
from veridical.evals.report.origin import Origin
from veridical.evals.report.reading import read
from veridical.evals.report.summary import BenchSummary, summarise


def write_report(directory: Path, *, baseline: str = "direct") -> tuple[BenchSummary, ...]:
    """Read `records.jsonl` and `run.json`, write `report.md`, `report.html`, `report.csv`, `summary.json`
    and `plots/` beside them. The same records in any order give the same bytes.

    Raises:
        CannotReport: there is no record, or one of the two files cannot be read.
    """
    records = read(directory)
    origin = Origin.of(directory)
    benches = summarise(records, origin, baseline=baseline)
    parts = pages.sections(benches)
    plots = directory / pages.PLOTS
    shutil.rmtree(plots, ignore_errors=True)
    plots.mkdir()
    for part in parts:
        for name, figure in part.files.items():
            (directory / name).write_text(figure.standalone(), encoding="utf-8")
    (directory / "report.md").write_text(pages.markdown(parts, origin), encoding="utf-8")
    (directory / "report.html").write_text(pages.html(parts, origin), encoding="utf-8")
    (directory / "report.csv").write_text(files.table(benches), encoding="utf-8")
    (directory / "summary.json").write_bytes(files.summary(benches, origin, baseline))
    return benches
