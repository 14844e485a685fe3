"""`veridical eval report` and `veridical eval compare`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

if TYPE_CHECKING:
    from veridical.evals.report.matching import Matched

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@contextmanager
def _plainly() -> Iterator[None]:
    """Show in one line what the user can mend, and exit with 1."""
    try:
        from veridical.evals.report.reading import CannotReport

        yield
    except ModuleNotFoundError as missing:
        _fail(f"reports need {missing.name}: pip install 'veridical[evals]'")
    except CannotReport as reason:
        _fail(str(reason))


def _fail(message: str) -> NoReturn:
    click.echo(f"veridical: {message}", err=True)
    sys.exit(1)


@click.command()
@click.argument("directory", type=FOLDER)
@click.option("--baseline", default="direct", show_default=True, help="What the others are compared to.")
def report(directory: Path, baseline: str) -> None:
    """Write report.md, report.html, report.csv and summary.json into DIRECTORY, from its records."""
    with _plainly():
        from veridical.evals.report import sentences, write_report

        benches = write_report(directory, baseline=baseline)
    for bench in benches:
        click.secho(bench.title, bold=True)
        for sentence in (sentences.verdict(bench), sentences.control_verdict(bench), sentences.power(bench)):
            if sentence:
                click.echo(f"  {sentence}")
    click.echo(f"Written: {directory / 'report.html'}, report.md, report.csv, summary.json, plots/")


@click.command()
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@click.option("--dir", "directory", type=FOLDER, help="A and B are two strategies in this folder.")
@click.option("--json", "as_json", is_flag=True, help="One JSON array.")
def compare(before: str, after: str, directory: Path | None, as_json: bool) -> None:
    """Compare A with B on the questions that both answered: two folders of records, or with --dir two
    strategies of one. Differences are B minus A."""
    with _plainly():
        from veridical.evals.report import matching

        if directory:
            found = matching.strategies(directory, before, after)
        else:
            found = matching.folders(_folder(before), _folder(after))
    if as_json:
        import orjson

        from veridical.evals.report.files import rounded

        shown = rounded([asdict(each) for each in found])
        click.echo(orjson.dumps(shown, option=orjson.OPT_INDENT_2).decode())
    else:
        _print(found)


def _folder(name: str) -> Path:
    if not Path(name).is_dir():
        raise click.UsageError(f"{name!r} is no folder; two strategies of one folder need --dir.")
    return Path(name)


def _print(found: Sequence[Matched]) -> None:
    """One table for each pair of strategies on a task; intervals stand below their values."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from veridical.evals.report.tables import COMPARED, compared_row

    console = Console()
    pairs = {_title(each): [other for other in found if _title(other) == _title(each)] for each in found}
    for title, several in pairs.items():
        table = Table(title=Text(title), title_justify="left", padding=(0, 0, 0, 1))
        for column in COMPARED:
            table.add_column(column, justify="left" if column == "metric" else "right")
        for each in several:
            table.add_row(*(Text(cell.replace(" [", "\n[")) for cell in compared_row(each.comparison)))
        console.print(table)


def _title(each: Matched) -> str:
    c = each.comparison
    place = " · ".join(filter(None, (each.task, each.setting, each.model)))
    return f"{place}: A = {c.before}, B = {c.after}"
