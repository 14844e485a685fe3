"""A sample of the fault matrix for every run: each fault twice, strategies and moments in turn."""

import asyncio
from pathlib import Path

import pytest

from veridical.tests.faults import page
from veridical.tests.faults.faulty import running_faulty
from veridical.tests.faults.matrix import MOMENTS, NAMES, STRATEGIES, Case, cases, run
from veridical.tests.faults.process import served, settings

pytestmark = pytest.mark.timeout(600)


def sample() -> list[Case]:
    known = set(cases())
    picked = [
        Case(fault, STRATEGIES[(2 * at + form) % len(STRATEGIES)], MOMENTS[(at + form) % 3], bool(form))
        for at, fault in enumerate(NAMES)
        for form in (0, 1)
    ]
    return [
        case if case in known else Case(case.fault, case.strategy, "always", case.streamed) for case in picked
    ]


def test_what_comes_of_faults_is_what_the_page_says(tmp_path: Path) -> None:
    picked = sample()
    assert {case.strategy for case in picked} == set(STRATEGIES)
    with running_faulty() as faulty, served(tmp_path, settings(faulty.url)) as server:
        found = asyncio.run(run(server.proxy.url, picked))
        tasks = server.held().tasks
    assert {case: came.wrong for case, came in found.items() if came.wrong} == {}
    assert {case: came.outcome for case, came in found.items()} == {case: page.told(case) for case in picked}
    assert tasks <= 4
    assert "Traceback" not in (tmp_path / "log").read_text()
