"""How far a judge agrees with people: accuracy, Cohen's kappa, and the error of each system's score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Pair:
    """What people said of one item and what the judge said; `system` is whose item it is."""

    human: bool
    judge: bool
    system: str = ""


@dataclass(frozen=True)
class Agreement:
    """Figures over pairs. `errors` is, by system, the judge's share of true minus the people's."""

    n: int
    accuracy: float
    kappa: float | None
    errors: dict[str, float]


def agreement(pairs: Sequence[Pair]) -> Agreement:
    """Compare two raters. There is no kappa where both give everything the same label.

    Raises:
        ValueError: there are no pairs.
    """
    if not pairs:
        raise ValueError("no pairs to compare")
    accuracy = _mean([pair.human == pair.judge for pair in pairs])
    human, judge = _mean([pair.human for pair in pairs]), _mean([pair.judge for pair in pairs])
    chance = human * judge + (1 - human) * (1 - judge)
    kappa = (accuracy - chance) / (1 - chance) if chance < 1 else None
    return Agreement(len(pairs), accuracy, kappa, _errors(pairs))


def _errors(pairs: Sequence[Pair]) -> dict[str, float]:
    own = {
        name: [pair for pair in pairs if pair.system == name] for name in sorted({p.system for p in pairs})
    }
    return {
        name: _mean([pair.judge for pair in found]) - _mean([pair.human for pair in found])
        for name, found in own.items()
    }


def _mean(values: Sequence[bool]) -> float:
    return sum(values) / len(values)
