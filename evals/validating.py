"""Measures a judge on labelled data before anything is graded by it: each label is a sample, so that a
validation resumes like any run."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

from inspect_ai import Task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.scorer import Score, Scorer, Target, scorer
from inspect_ai.solver import Generate, Solver, TaskState, solver

from veridical.evals import labels
from veridical.evals.agreement import Agreement, Pair, agreement
from veridical.evals.data import Source, identifier, question, read
from veridical.evals.halueval import SOURCE as HALUEVAL
from veridical.evals.judge import INFORMATION, PROMPTS, TRUTH, VERDICT, decides
from veridical.evals.knowledge import Knowledge
from veridical.evals.records import Record
from veridical.evals.scoring import EVERY_FIGURE, graded
from veridical.evals.truthfulqa_gen import SOURCE as TRUTHFULQA
from veridical.evals.truthfulqa_gen import references
from veridical.strategies.prompting import Prompt

_BY_NAME = {prompt.name: prompt for prompt in PROMPTS}
_FINETUNE = {
    TRUTH.name: "truthfulqa/finetune_truth.jsonl",
    INFORMATION.name: "truthfulqa/finetune_info.jsonl",
}


def factscore(
    data: str | None, n: int, seed: int, passages: int = 5, passage_tokens: int = 256
) -> list[Sample]:
    """Human-labelled facts of three systems' biographies, with the passages the scorer would show."""
    knowledge = Knowledge.read(data, passage_tokens)
    chosen = labels.balanced(labels.facts(data, set(knowledge.texts)), n, seed)
    return [
        _item(
            VERDICT,
            fact.supported,
            fact.system,
            group=fact.entity,
            topic=fact.entity,
            fact=fact.fact,
            passages=knowledge.page(fact.entity).best(f"{fact.entity} {fact.fact}", passages),
        )
        for fact in chosen
    ]


def halueval(data: str | None, n: int, seed: int) -> list[Sample]:
    """Right and hallucinated answers of HaluEval's pairs, with their knowledge as the passage."""
    rows = _sampled(read(HALUEVAL, data).rows, n // 2, seed)
    return [
        _item(
            VERDICT,
            kind == "right",
            kind,
            group=identifier(row["question"]),
            topic=row["question"],
            fact=f"The answer to this question is: {row[f'{kind}_answer']}",
            passages=[row["knowledge"]],
        )
        for row in rows
        for kind in ("right", "hallucinated")
    ]


def truthfulqa(data: str | None, n: int, seed: int) -> list[Sample]:
    """The labelled answers that the official judges were trained on, half for each of the two questions."""
    known = {row["Question"]: row for row in read(TRUTHFULQA, data).rows}
    return [
        sample
        for prompt in (TRUTH, INFORMATION)
        for sample in _truthfulqa(
            prompt, known, read(Source((_FINETUNE[prompt.name],)), data).rows, n // 2, seed
        )
    ]


SETS: dict[str, Callable[..., list[Sample]]] = {
    "factscore": factscore,
    "halueval": halueval,
    "truthfulqa": truthfulqa,
}


def _truthfulqa(
    prompt: Prompt, known: dict[str, Any], rows: Sequence[dict[str, Any]], n: int, seed: int
) -> Iterable[Sample]:
    parts = [(*_asked(row["prompt"]), row["completion"].strip() == "yes") for row in rows]
    for asked, answer, label in _sampled([part for part in parts if part[0] in known], n, seed):
        row = known[asked]
        given: dict[str, Any] = {"question": asked, "answer": answer}
        if prompt is TRUTH:
            given["right"] = references(row["Correct Answers"])
            given["wrong"] = references(row["Incorrect Answers"])
        yield _item(prompt, label, prompt.name, group=identifier(asked), **given)


def _asked(prompt: str) -> tuple[str, str]:
    """Question and answer of a training line "Q: …\\nA: …\\nTrue:"."""
    asked, _, rest = prompt.removeprefix("Q: ").partition("\nA: ")
    return asked, rest.rpartition("\n")[0]


def _sampled(rows: Sequence[Any], n: int, seed: int) -> list[Any]:
    return random.Random(seed).sample(rows, min(n, len(rows)))  # noqa: S311 - a choice, not a secret


def _item(prompt: Prompt, label: bool, system: str, *, group: str, **given: Any) -> Sample:
    name = identifier(prompt.name, system, *map(str, given.values()))
    return question(
        name, prompt.name, group=group, tags=[system], wording=prompt.name, label=label, given=given, draw=0
    )


def validation(samples: Sequence[Sample]) -> Task:
    """A task in which nothing is asked of the model and the scorer asks the judge."""
    return Task(dataset=MemoryDataset(list(samples)), solver=nothing(), scorer=agrees())


@solver
def nothing() -> Solver:
    """Leave the sample as it is."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        return state

    return solve


@scorer(metrics=EVERY_FIGURE)
def agrees() -> Scorer:
    """1 where the judge says what people said; also both their labels."""

    async def score(state: TaskState, target: Target) -> Score:
        known = state.metadata
        said = await decides(_BY_NAME[known["wording"]], **known["given"])
        figures = {"agreement": float(said == known["label"]), "human": float(known["label"])}
        return graded({**figures, "judge": float(said)}, str(said))

    return score


def summary(records: Sequence[Record]) -> dict[str, Any]:
    """The agreement over the graded records, and how many were not graded.

    Raises:
        ValueError: none was graded.
    """
    done = [record for record in records if record.graded]
    found: Agreement = agreement(
        [Pair(bool(each.scores["human"]), bool(each.scores["judge"]), each.tags[0]) for each in done]
    )
    return asdict(found) | {"ungraded": len(records) - len(done)}
