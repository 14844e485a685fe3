"""The whole fault matrix, and what a server holds after thousands of requests that went wrong."""

import asyncio
from pathlib import Path

import pytest

from veridical.tests.faults import page
from veridical.tests.faults.faulty import running_faulty
from veridical.tests.faults.matrix import NAMES, Case, cases, run
from veridical.tests.faults.process import Served, served, settings
from veridical.tests.proxy import wait_until

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(3600)]

#: Megabytes by which a server may grow over hundreds of requests, once it has seen all kinds of them.
MOST_GROWTH_MB = 12


def test_every_fault_ends_well_and_nothing_is_left_behind(tmp_path: Path) -> None:
    asked, again = cases(), cases(NAMES, ["direct", "cove", "self_consistency"])
    assert len(asked) + len(again) >= 2000
    with running_faulty() as faulty, served(tmp_path, settings(faulty.url)) as server:
        asyncio.run(run(server.proxy.url, [Case("slow", "rag")]))  # loads what is loaded on first use
        before = server.held()
        found = asyncio.run(run(server.proxy.url, asked))
        warm = server.held()
        asyncio.run(run(server.proxy.url, again))
        after = server.held()
        wait_until(lambda: _is_quiet(server, before.tasks, before.files), 90)  # pooled connections end
        wait_until(lambda: faulty.open <= 2, 90)
    assert {case: came.wrong for case, came in found.items() if came.wrong} == {}
    assert after.memory_mb - warm.memory_mb < MOST_GROWTH_MB, (before, warm, after)
    assert "Traceback" not in (tmp_path / "log").read_text()
    assert page.tables(found) == page.written(), "write the page anew: make faults"


def _is_quiet(server: Served, tasks: int, files: int) -> bool:
    held = server.held()
    return held.tasks <= tasks + 1 and held.files <= files + 3
