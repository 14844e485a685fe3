"""From a reply to figures: what the tasks' scorers share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inspect_ai.scorer import Score, mean, stderr
from inspect_ai.solver import TaskState

from veridical.evals.asking import ACCOUNT

#: What inspect_ai's own summary shows of each figure.
EVERY_FIGURE: Mapping[str, Any] = {"*": [mean(), stderr()]}


def graded(figures: Mapping[str, float], answer: str | None, confidence: float | None = None) -> Score:
    """A score of several figures, the headline first; `answer` None marks a reply that did not parse."""
    told = {"parsed": answer is not None, "confidence": confidence}
    return Score(value=dict(figures), answer=answer, metadata=told)


def account(state: TaskState) -> Mapping[str, Any]:
    """What the endpoint told of its work on this sample."""
    found: Mapping[str, Any] = state.store.get(ACCOUNT) or {}
    return found
