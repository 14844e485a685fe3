"""Runs a matrix of tasks and strategies, sample by sample, and goes on where it was stopped."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import inspect_ai
from inspect_ai import Task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import EvalLog
from inspect_ai.model import Model

from veridical.evals.catalogue import entry
from veridical.evals.endpoint import Endpoint
from veridical.evals.judge import JUDGE
from veridical.evals.progress import Progress
from veridical.evals.recording import Cell, Recorder, recording
from veridical.evals.records import Record, RecordFile
from veridical.strategies.errors import InvalidRequest

LOGS = "logs"
#: Makes the judge's model, given the endpoint under test and a number of connections.
MakeJudge = Callable[[Endpoint, int], Model]
#: A cell ends early once this many of its samples failed: the endpoint is broken, not the question.
MAX_ERRORS = 10


@dataclass(frozen=True)
class Draws:
    """How often each question is drawn, and how: once and greedily, or `n` times at a temperature."""

    n: int = 1
    temperature: float = 0.0
    variant: str = ""


@dataclass(frozen=True)
class Plan:
    """What to run. `label` is the model's name in the records, `model` the one that is asked for."""

    tasks: Sequence[str]
    model: str
    label: str
    strategies: Sequence[str]
    out: Path
    arguments: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None
    shuffle: bool = False
    seed: int = 0
    data: str | None = None
    max_connections: int = 4
    draws: Draws = Draws()
    judge: MakeJudge | None = None


@dataclass
class Outcome:
    """How a run ended: what was done, what was there before, what failed."""

    done: int = 0
    kept: int = 0
    failed: int = 0
    interrupted: bool = False


@dataclass(frozen=True)
class Prepared:
    """A task of the plan with its questions chosen and ordered, ready to be asked."""

    name: str
    setting: str
    task: Task

    @property
    def described(self) -> dict[str, Any]:
        """What `run.json` says of it: above all which file it was made from."""
        known = {name: value for name, value in (self.task.metadata or {}).items() if name != "setting"}
        return {
            "task": self.name,
            "setting": self.setting,
            "samples": len(self.task.dataset),
            **known,
        }


def prepare(plan: Plan, name: str) -> Prepared:
    """Read one task of the plan.

    Raises:
        VeridicalError: an unknown task or parameter, or a file that is missing.
    """
    found = entry(name)
    arguments = found.checked(dict(plan.arguments))
    if found.judged(arguments) and plan.judge is None:
        raise InvalidRequest(f"{name} is graded by a judge: give one with --judge MODEL.", param="judge")
    made = found.make(**{"data": plan.data, **arguments})
    made.dataset = MemoryDataset(chosen(list(made.dataset), plan))
    made.config.temperature = plan.draws.temperature
    return Prepared(name, found.setting(arguments), made)


def chosen(samples: Sequence[Sample], plan: Plan) -> list[Sample]:
    """The first `limit` questions in file order, or in an order shuffled by the seed, each with its draws.

    Samples of one group (the two orders of a binary question) are one question: they stay together.
    """
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        known = sample.metadata or {}
        groups.setdefault(str(known.get("group") or known["id"]), []).append(sample)
    names = list(groups)
    if plan.shuffle:
        random.Random(plan.seed).shuffle(names)  # noqa: S311 - an order, not a secret
    questions = [sample for name in names[: plan.limit] for sample in groups[name]]
    return [_drawn(sample, draw, plan) for sample in questions for draw in range(plan.draws.n)]


def _drawn(sample: Sample, draw: int, plan: Plan) -> Sample:
    """One draw of a sample, with a seed of its own."""
    known = {**(sample.metadata or {}), "draw": draw, "seed": seed_of(plan.seed, str(sample.id), draw)}
    name = sample.id if plan.draws.n == 1 else f"{sample.id}#{draw}"
    return sample.model_copy(update={"id": name, "metadata": known})


def seed_of(seed: int, question: str, draw: int) -> int:
    """A seed for each draw of each question, the same in every run. With one for all questions an engine
    would draw the same way for all of them, and their scores would not be independent. It has 30
    bits: servers may take no more than 31, and strategies count on from it."""
    digest = hashlib.sha256(f"{seed}\0{question}\0{draw}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 2


def run(plan: Plan, prepared: Sequence[Prepared], endpoint: Endpoint, progress: Progress) -> Outcome:
    """Every task under every strategy, one cell after the other.

    Finished samples of earlier runs are not asked again; ungraded ones are.

    Raises:
        OSError: a record could not be written.
    """
    outcome = Outcome()
    for each in prepared:
        for strategy in plan.strategies:
            cell = Cell(each.name, each.setting, plan.label, strategy, plan.draws.variant)
            _CellRun(cell, plan, endpoint, progress, outcome)(each.task)
            if outcome.interrupted:
                return outcome
    return outcome


@dataclass(frozen=True)
class _CellRun:
    """Asks what is left of one cell."""

    cell: Cell
    plan: Plan
    endpoint: Endpoint
    progress: Progress
    outcome: Outcome

    def __call__(self, task: Task) -> None:
        file = RecordFile(self.plan.out)
        done = {(old.id, old.sample): old for old in file if self.cell.holds(old) and old.graded}
        finished = [done[key] for key in map(_key, task.dataset) if key in done]
        left = [sample for sample in task.dataset if _key(sample) not in done]
        self.outcome.kept += len(finished)
        with self.progress.cell(self.cell, len(task.dataset), finished) as show:
            if left:
                self._ask(_only(task, left), file, show)

    def _ask(self, task: Task, file: RecordFile, show: Callable[[Record], None]) -> None:
        plan = self.plan
        model = self.endpoint.model(
            plan.model, self.cell.strategy, connections=plan.max_connections, seed=plan.seed
        )
        roles = {JUDGE: plan.judge(self.endpoint, plan.max_connections)} if plan.judge else {}
        recorder = Recorder(self.cell, file, self._counting(show), [model, *roles.values()])
        with recording(recorder), _quiet():
            logs = inspect_ai.eval(
                task,
                model=model,
                model_roles=dict(roles),
                display="none",
                log_dir=str(plan.out / LOGS),
                fail_on_error=MAX_ERRORS,
                max_samples=plan.max_connections,
                log_realtime=False,
                score_display=False,  # the running score is ours
                metadata={"strategy": self.cell.strategy, "variant": self.cell.variant},
            )
        self._ended(logs)

    def _ended(self, logs: Sequence[EvalLog]) -> None:
        """Notice an interruption, which leaves no log or a cancelled one, and tell of a cell given up."""
        statuses = {log.status for log in logs}
        self.outcome.interrupted = not logs or "cancelled" in statuses
        for log in logs:
            if log.status == "error":
                self.progress.say(
                    f"{self.cell}: given up; {log.error.message if log.error else 'see the log'}"
                )

    def _counting(self, show: Callable[[Record], None]) -> Callable[[Record], None]:
        def counted(record: Record) -> None:
            self.outcome.done += record.graded
            self.outcome.failed += not record.graded
            show(record)

        return counted


def _key(sample: Sample) -> tuple[str, int]:
    known = sample.metadata or {}
    return str(known["id"]), known["draw"]


def _only(made: Task, samples: Sequence[Sample]) -> Task:
    one = copy.copy(made)
    one.dataset = MemoryDataset(list(samples))
    return one


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """inspect_ai's greeting goes where our progress goes: standard output is for results."""
    with contextlib.redirect_stdout(sys.stderr):
        yield
