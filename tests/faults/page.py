"""The tables of docs/faults.md, out of a run and back; run as a program, writes them."""

import asyncio
import tempfile
from collections.abc import Mapping
from pathlib import Path

from veridical import strategies
from veridical.tests.faults.faulty import FAULTS, running_faulty
from veridical.tests.faults.matrix import MOMENTS, NAMES, STRATEGIES, Came, Case, cases, run
from veridical.tests.faults.process import served, settings

PAGE = Path(strategies.__path__[0]).parent / "docs/faults.md"
BEGIN, END = "<!-- written by `make faults` -->\n", "<!-- end -->\n"
_TITLES = {
    "always": "Every call goes wrong",
    "later": "The first call is answered, every later one goes wrong",
    "once": "The first call goes wrong, every later one is answered",
}
_REFUSE = "Nobody listens at the backend's address."


def tables(found: Mapping[Case, Came]) -> str:
    """What came of all cases, in Markdown."""
    parts = [_meanings()]
    for when in MOMENTS:
        rows = [_row(found, fault, when) for fault in NAMES if fault != "refuse" or when == "always"]
        parts.append(f"### {_TITLES[when]}\n\n{_head(when)}" + "".join(rows))
    return "\n".join(parts)


def _meanings() -> str:
    told = {"refuse": _REFUSE, **{name: (fault.__doc__ or "") for name, fault in FAULTS.items()}}
    return "| fault | what the backend does |\n| --- | --- |\n" + "".join(
        f"| `{name}` | {words} |\n" for name, words in told.items()
    )


def _columns(when: str) -> list[str]:
    return [name for name in STRATEGIES if name != "direct" or when == "always"]


def _head(when: str) -> str:
    names = [f"`{name.replace('|', chr(92) + '|')}`" for name in _columns(when)]
    return f"| fault | {' | '.join(names)} |\n| --- |{' --- |' * len(names)}\n"


def _row(found: Mapping[Case, Came], fault: str, when: str) -> str:
    cells = []
    for strategy in _columns(when):
        whole, streamed = (found[Case(fault, strategy, when, form)].outcome for form in (False, True))
        cells.append(whole if whole == streamed else f"{whole} · {streamed}")
    return f"| `{fault}` | {' | '.join(cells)} |\n"


def written() -> str:
    """The tables as the page has them."""
    return PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]


def told(case: Case) -> str:
    """What the page says comes of a case."""
    section = written().partition(f"### {_TITLES[case.when]}\n")[2].partition("\n### ")[0]
    row = next(line for line in section.splitlines() if line.startswith(f"| `{case.fault}` |"))
    cell = row.strip("| ").split(" | ")[1:][_columns(case.when).index(case.strategy)]
    whole, _, streamed = cell.partition(" · ")
    return streamed or whole if case.streamed else whole


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        running_faulty() as faulty,
        served(Path(folder), settings(faulty.url)) as server,
    ):
        found = asyncio.run(run(server.proxy.url, cases()))
    wrong = [f"{case}: {came.wrong}" for case, came in found.items() if came.wrong]
    assert not wrong, "\n".join(wrong)
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(before + BEGIN + tables(found) + END + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    main()
