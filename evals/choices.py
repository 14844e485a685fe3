"""Questions with lettered options: shuffled by a seed of their own, read strictly."""

from __future__ import annotations

import random
from collections.abc import Sequence
from string import ascii_uppercase
from typing import Any

from inspect_ai.dataset import Sample
from inspect_ai.scorer import Score, Scorer, Target, scorer
from inspect_ai.solver import TaskState

from veridical.evals.data import question
from veridical.evals.reading import letter
from veridical.evals.scoring import EVERY_FIGURE, graded
from veridical.evals.wording import text, wording

CHOICE = wording("question/choice")


def shuffled(options: Sequence[str], name: str, seed: int = 0) -> list[str]:
    """The options in an order that depends on the question and the seed alone."""
    found = list(options)
    random.Random(f"{seed}:{name}").shuffle(found)  # noqa: S311 - an order, not a secret
    return found


def choice(name: str, asked: str, options: Sequence[str], right: str, **known: Any) -> Sample:
    """A question whose options stand in the given order; the target is the right one's letter."""
    letters = ascii_uppercase[: len(options)]
    prompt = text(
        CHOICE,
        question=asked,
        options=[{"letter": mark, "text": option} for mark, option in zip(letters, options, strict=True)],
        letters=f"{', '.join(letters[:-1])} or {letters[-1]}",
    )
    return question(name, prompt, target=letters[options.index(right)], letters=list(letters), **known)


def vote(reply: str) -> str | None:
    """What a reply counts as when draws are put to the vote."""
    return letter(reply, ascii_uppercase)


@scorer(metrics=EVERY_FIGURE)
def chosen() -> Scorer:
    """Accuracy; an unparsable reply is wrong. `said_a` is 1 where the first letter was chosen: its
    mean shows a model's bias for it."""

    async def score(state: TaskState, target: Target) -> Score:
        said = letter(state.output.completion, state.metadata["letters"])
        figures = {"accuracy": float(said == target.text)}
        if said is not None:
            figures["said_a"] = float(said == "A")
        return graded(figures, said)

    return score
