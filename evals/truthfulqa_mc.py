"""TruthfulQA, multiple choice (Lin et al., 2021, arXiv 2109.07958): official scores and chat forms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import Score, Scorer, Target, scorer
from inspect_ai.solver import Generate, Solver, TaskState, solver

from veridical.evals import choices
from veridical.evals.asking import ACCOUNT, asking
from veridical.evals.choices import choice, chosen, shuffled
from veridical.evals.data import Row, Source, identifier, question, read
from veridical.evals.likelihood import log_likelihoods
from veridical.evals.metrics import mc1, mc2, mc3
from veridical.evals.scoring import EVERY_FIGURE, graded

#: The column with the best incorrect answer came in January 2025; the hub's copy is older.
SOURCE = Source(("truthfulqa/TruthfulQA.csv",))
OPTIONS = Source(("truthfulqa/mc_task.json",), hub="truthfulqa/truthful_qa", config="multiple_choice")
vote = choices.vote


@task
def truthfulqa_mc(
    setting: Literal["binary", "letter", "logprob"] = "binary",
    data: str | None = None,
    primer: str | None = None,
    order_seed: int = 0,
    max_tokens: int = 16,
) -> Task:
    """Which answer is true? `binary`: the best answer against the best incorrect one, in both orders;
    `letter`: all MC1 options under shuffled letters; `logprob`: the official MC1 and MC2 over a
    completions endpoint that returns the prompt's log-probabilities (`primer`: a file with the text
    that stands before each question, such as the official demonstrations)."""
    source = read(SOURCE if setting == "binary" else OPTIONS, data)
    if setting == "logprob":
        before = Path(primer).read_text(encoding="utf-8").rstrip() + "\n\n" if primer else ""
        samples = [_options(row, before) for row in source.rows]
        return asking(
            samples, likeliest(), source=source, setting=setting, max_tokens=1, solver=likelihoods()
        )
    make = _both_orders if setting == "binary" else _letters
    samples = [sample for row in source.rows for sample in make(row, order_seed)]
    return asking(samples, chosen(), source=source, setting=setting, max_tokens=max_tokens)


def _both_orders(row: Row, seed: int) -> list[Sample]:
    """The question twice, so that a preference for a letter cancels out; the two are one group."""
    asked, right, wrong = row["Question"], row["Best Answer"], row["Best Incorrect Answer"]
    name = identifier(asked)
    orders = {"ab": [right, wrong], "ba": [wrong, right]}
    tags = [row["Type"], row["Category"]]
    return [
        choice(f"{name}/{order}", asked, options, right, group=name, tags=tags)
        for order, options in orders.items()
    ]


def _letters(row: Row, seed: int) -> list[Sample]:
    asked, options = row["question"], _labelled(row["mc1_targets"])
    name = identifier(asked)
    (right,) = (option for option, true in options.items() if true)
    return [choice(name, asked, shuffled(list(options), name, seed), right)]


def _options(row: Row, before: str) -> Sample:
    asked = row["question"]
    return question(
        identifier(asked),
        f"{before}Q: {asked}\nA:",
        mc1=_labelled(row["mc1_targets"]),
        mc2=_labelled(row["mc2_targets"]),
    )


def _labelled(targets: Row) -> dict[str, int]:
    """Option → 1 or 0, in the official file's layout or the hub's (two parallel lists)."""
    if "choices" in targets and "labels" in targets:
        return dict(zip(targets["choices"], targets["labels"], strict=True))
    return dict(targets)


@solver
def likelihoods() -> Solver:
    """The log-probability of each option after the prompt, one request each."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        known = state.metadata
        options = list(dict.fromkeys([*known["mc1"], *known["mc2"]]))
        found, account = await log_likelihoods(state.input_text, options)
        state.store.set("likelihoods", found)
        state.store.set(ACCOUNT, account)
        return state

    return solve


@scorer(metrics=EVERY_FIGURE)
def likeliest() -> Scorer:
    """Official MC1 over its options, MC2 and MC3 over theirs: sums of log-probabilities, no normalisation."""

    async def score(state: TaskState, target: Target) -> Score:
        found = state.store.get("likelihoods")
        one, several = (_split(state.metadata[name], found) for name in ("mc1", "mc2"))
        return graded({"mc1": mc1(*one), "mc2": mc2(*several), "mc3": mc3(*several)}, "")

    return score


def _split(options: dict[str, int], found: dict[str, float]) -> tuple[Sequence[float], Sequence[float]]:
    """The log-probabilities of the true and of the false options."""
    true = [found[option] for option, label in options.items() if label]
    false = [found[option] for option, label in options.items() if not label]
    return true, false
