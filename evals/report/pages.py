"""The report as Markdown and as one HTML file that needs nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import jinja2
import markupsafe
import orjson

from veridical.evals.report import plots, sentences, tables
from veridical.evals.report.drawing import DRAWING
from veridical.evals.report.origin import Origin
from veridical.evals.report.plots import Figure
from veridical.evals.report.summary import BenchSummary
from veridical.evals.report.tables import Table

PLOTS = "plots"
_MARKUP = re.compile(r"[\\`*|]|(?<!\w)_|_(?!\w)|<(?=[\w/!?])|\](?=[(\[:])|~(?=~)")


@dataclass(frozen=True)
class Section:
    """All that is said and shown of one bench, in order."""

    number: int
    bench: BenchSummary

    @property
    def sentences(self) -> list[str]:
        """What it comes to."""
        said = (
            sentences.verdict(self.bench),
            sentences.control_verdict(self.bench),
            sentences.power(self.bench),
        )
        return [sentence for sentence in said if sentence]

    @property
    def warnings(self) -> list[str]:
        """What to mind."""
        return sentences.warnings(self.bench)

    @property
    def main(self) -> Table:
        """The table that matters."""
        return tables.main_table(self.bench)

    @property
    def controls(self) -> Table | None:
        """Beside it: equal calls."""
        return tables.control_table(self.bench)

    @property
    def oracle(self) -> str:
        """The upper bound."""
        return sentences.oracle(self.bench)

    @property
    def further(self) -> list[Table]:
        """For whoever looks closer."""
        return tables.further_tables(self.bench)

    @cached_property
    def figures(self) -> list[Figure]:
        """The pictures."""
        return plots.figures(self.bench)

    @property
    def files(self) -> dict[str, Figure]:
        """The same by the file that Markdown shows them from."""
        return {
            f"{PLOTS}/{self.number}-{place}-{figure.kind}.svg": figure
            for place, figure in enumerate(self.figures, 1)
        }


def sections(benches: Sequence[BenchSummary]) -> list[Section]:
    """One a bench."""
    return [Section(number, bench) for number, bench in enumerate(benches, 1)]


def markdown(parts: Sequence[Section], origin: Origin) -> str:
    """`report.md`; pictures are files beside it."""
    return (
        _environment(autoescape=False)
        .get_template("report.md")
        .render(sections=parts, origin=origin, judge_line=_cell(origin.judge_line or ""))
    )


def html(parts: Sequence[Section], origin: Origin) -> str:
    """`report.html`: style and pictures inline, no script, nothing fetched."""
    manifest = orjson.dumps(origin.manifest, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS).decode()
    return (
        _environment(autoescape=True)
        .get_template("report.html")
        .render(
            sections=parts,
            origin=origin,
            manifest=manifest if origin.manifest else "",
            drawing=DRAWING,
        )
    )


def _environment(*, autoescape: bool) -> jinja2.Environment:
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("veridical.evals.report"),
        autoescape=autoescape,  # noqa: S701 - Markdown escapes with `cell`
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters["cell"] = _cell
    found.filters["breakable"] = _breakable
    return found


def _cell(text: str) -> str:
    """Words in a Markdown table or sentence: nothing in them is markup, and a pipe ends no cell."""
    return _MARKUP.sub(r"\\\g<0>", text)


def _breakable(text: str) -> markupsafe.Markup:
    """A strategy's expression for HTML: a narrow column may break it before its options."""
    return markupsafe.Markup("<wbr/>(").join(text.split("("))
