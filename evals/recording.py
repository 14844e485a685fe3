"""Writes a record the moment a sample is done: an inspect_ai hook, told which cell is being run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

from inspect_ai.hooks import Hooks, RunEnd, SampleEnd, hooks
from inspect_ai.log import EvalSample
from inspect_ai.model import Model
from inspect_ai.scorer import Score

from veridical.evals.asking import ACCOUNT
from veridical.evals.records import Record, RecordFile

ERROR_LENGTH = 300


@dataclass(frozen=True)
class Cell:
    """One task under one strategy: a row of an ablation."""

    task: str
    setting: str
    model: str
    strategy: str
    variant: str = ""

    def holds(self, record: Record) -> bool:
        """Whether a record belongs here."""
        own = (record.task, record.setting, record.model, record.strategy, record.variant)
        return own == (self.task, self.setting, self.model, self.strategy, self.variant)

    def __str__(self) -> str:
        words = (self.task, self.setting, "·", self.strategy, self.variant and f"({self.variant})")
        return " ".join(filter(None, words))


@dataclass
class Recorder:
    """Appends each finished sample of a cell to a file and then shows it."""

    cell: Cell
    file: RecordFile
    show: Callable[[Record], None]
    models: Sequence[Model] = ()
    failure: Exception | None = field(default=None, init=False)

    def write(self, sample: EvalSample) -> None:
        """Record one sample; the first failure to write is kept, for whoever runs the cell to raise."""
        try:
            record = record_of(self.cell, sample)
            self.file.append(record)
        except Exception as failure:  # inspect_ai would log it and go on
            self.failure = self.failure or failure
            raise
        self.show(record)


@hooks(name="veridical_records", description="keeps one record per finished sample")
class Recording(Hooks):
    """Hands finished samples to the recorder of the cell that is being run; idle otherwise."""

    recorder: ClassVar[Recorder | None] = None

    def enabled(self) -> bool:
        """Only while a cell is being run by `veridical eval`."""
        return Recording.recorder is not None

    async def on_sample_end(self, data: SampleEnd) -> None:
        """Write it, unless it was cut off in the middle: then nothing is known of it."""
        if Recording.recorder is not None and not _cut_off(data.sample):
            Recording.recorder.write(data.sample)

    async def on_run_end(self, data: RunEnd) -> None:
        """Close the connections of the cell's models, in the event loop that opened them."""
        if Recording.recorder is not None:
            for model in Recording.recorder.models:
                await model.api.aclose()


@contextmanager
def recording(recorder: Recorder) -> Iterator[None]:
    """Record what ends inside the block.

    Raises:
        Exception: what kept a record from being written.
    """
    Recording.recorder = recorder
    try:
        yield
    finally:
        Recording.recorder = None
    if recorder.failure:
        raise recorder.failure


def _cut_off(sample: EvalSample) -> bool:
    return sample.error is not None and sample.error.message.startswith("CancelledError")


def record_of(cell: Cell, sample: EvalSample) -> Record:
    """A finished sample as a record; ungraded where it failed or could not be scored."""
    known, account = sample.metadata, sample.store.get(ACCOUNT) or {}
    score = next(iter((sample.scores or {}).values()), None)
    scores = _values(score)
    error = None if scores else _fault(sample, score)
    told = (score.metadata if score else None) or {}
    return Record(
        task=cell.task,
        setting=cell.setting,
        model=cell.model,
        strategy=cell.strategy,
        variant=cell.variant,
        id=str(known["id"]),
        sample=known.get("draw", 0),
        group=known.get("group"),
        tags=tuple(known.get("tags", ())),
        answer=sample.output.completion if account else "",  # else it is the library's word for an error
        scores=scores,
        graded=error is None,
        parsed=told.get("parsed", True),
        error=error,
        confidence=_first(told.get("confidence"), account.get("confidence")),
        **_cost(account),
    )


def _cost(account: Mapping[str, Any]) -> dict[str, Any]:
    figures = ("status", "calls", "cached_calls", "depth")
    names = (*figures, "prompt_tokens", "cached_tokens", "completion_tokens", "seconds")
    return {name: account[name] for name in names if account.get(name) is not None}


def _values(score: Score | None) -> dict[str, float]:
    if score is None or not isinstance(score.value, Mapping):
        return {}
    return {name: float(value) for name, value in score.value.items() if isinstance(value, int | float)}


def _fault(sample: EvalSample, score: Score | None) -> str:
    if sample.error:
        return sample.error.message[:ERROR_LENGTH]
    return ((score.explanation if score else None) or "it was not scored")[:ERROR_LENGTH]


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)
