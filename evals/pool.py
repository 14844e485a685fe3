"""One pool of direct draws a question, and the equal-calls controls that are votes over its first k."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from veridical.evals.catalogue import entry
from veridical.evals.recording import Cell
from veridical.evals.records import Record, RecordFile
from veridical.strategies.errors import InvalidRequest

POOL = "pool"
FROM_POOL = "from pool"


def add_controls(out: Path, calls: Sequence[int] = ()) -> Iterator[str]:
    """Append `self_consistency(n=k)` records voted from the pools in `out`; tells each in a line.

    Without `calls`, k is each other strategy's mean number of calls on the same task, rounded.

    Raises:
        InvalidRequest: there is no pool, or it is smaller than asked.
    """
    file = RecordFile(out)
    records = list(file)
    pools = _pools(records)
    if not pools:
        raise InvalidRequest(f"{out} has no pool: `veridical eval pool TASK` draws one.")
    for cell, drawn in pools.items():
        vote = entry(cell.task).vote
        if vote is None:
            yield f"{cell.task}: long answers cannot be put to the vote"
            continue
        size = max(map(len, drawn.values()))
        for k in sorted(set(calls) or equal_calls(cell, records, size)):
            if k > size:
                raise InvalidRequest(f"The pool of {cell.task} has {size} draws a question, not {k}.")
            made = [elected(draws[:k], vote) for draws in drawn.values() if len(draws) >= k]
            for record in made:
                file.append(record)
            yield f"{cell.task} {cell.setting}: self_consistency(n={k}), {len(made)} questions"


def equal_calls(cell: Cell, records: Sequence[Record], size: int) -> set[int]:
    """The numbers of calls that other strategies made on this task, none above the pool's size."""
    made: dict[str, list[int]] = defaultdict(list)
    for record in records:
        same = (record.task, record.setting, record.model) == (cell.task, cell.setting, cell.model)
        if same and record.variant not in (POOL, FROM_POOL) and record.calls:
            made[record.strategy].append(record.calls)
    means = {round(sum(each) / len(each)) for each in made.values()}
    return {min(mean, size) for mean in means if mean > 1}


def elected(draws: Sequence[Record], vote: Callable[[str], str | None]) -> Record:
    """The draw that wins: of the answer most draws agree on, in a tie of the one that came first.

    A draw that does not parse has no vote; where none parses, the first stands. The winner's own
    scores are the control's; its calls and tokens are those of all draws.
    """
    said = [vote(draw.answer) for draw in draws]
    counts = Counter(each for each in said if each is not None)
    best = counts.most_common(1)[0][0] if counts else said[0]
    winner = draws[said.index(best)]
    return winner.model_copy(
        update={
            "strategy": f"self_consistency(n={len(draws)})",
            "variant": FROM_POOL,
            "sample": 0,
            "calls": len(draws),
            "depth": 1,
            "confidence": counts[best] / len(draws) if best is not None else None,
            "prompt_tokens": _sum(draw.prompt_tokens for draw in draws),
            "cached_tokens": _sum(draw.cached_tokens for draw in draws),
            "completion_tokens": _sum(draw.completion_tokens for draw in draws),
            "seconds": max((draw.seconds for draw in draws if draw.seconds is not None), default=None),
        }
    )


def _pools(records: Sequence[Record]) -> dict[Cell, dict[str, list[Record]]]:
    """Graded draws by pool and question, in the order of their draw."""
    found: dict[Cell, dict[str, list[Record]]] = {}
    for record in sorted(records, key=lambda each: each.sample):
        if record.variant == POOL and record.graded:
            cell = Cell(record.task, record.setting, record.model, record.strategy, POOL)
            found.setdefault(cell, {}).setdefault(record.id, []).append(record)
    return found


def _sum(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
