"""From a reply to figures: what the tasks' scorers share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from inspect_ai.scorer import Metric, SampleScore, Score, Value, metric
from inspect_ai.solver import TaskState

from veridical.evals.asking import ACCOUNT


@metric
def means() -> Metric:
    """The mean of each figure over the samples that have it, for inspect_ai's own summary.

    Its dictionary metrics want every figure of every sample, and end the run where one is absent.
    """

    def mean_of_each(scores: list[SampleScore]) -> Value:
        found: dict[str, list[float]] = defaultdict(list)
        for each in scores:
            if isinstance(each.score.value, Mapping):
                for name, value in each.score.value.items():
                    found[name].append(float(value))  # type: ignore[arg-type]  # `graded` takes floats
        return {name: sum(values) / len(values) for name, values in found.items()}

    return mean_of_each


EVERY_FIGURE = [means()]


def graded(figures: Mapping[str, float], answer: str | None, confidence: float | None = None) -> Score:
    """A score of several figures, the headline first; `answer` None marks a reply that did not parse."""
    told = {"parsed": answer is not None, "confidence": confidence}
    return Score(value=dict(figures), answer=answer, metadata=told)


def account(state: TaskState) -> Mapping[str, Any]:
    """What the endpoint told of its work on this sample."""
    found: Mapping[str, Any] = state.store.get(ACCOUNT) or {}
    return found
