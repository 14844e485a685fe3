"""MedMCQA (Pal et al., 2022, arXiv 2203.14371): accuracy on validation; the test labels are hidden."""

from __future__ import annotations

from inspect_ai import Task, task
from inspect_ai.dataset import Sample

from veridical.evals import choices
from veridical.evals.asking import asking
from veridical.evals.choices import choice, chosen, shuffled
from veridical.evals.data import Row, Source, read

SOURCE = Source(("medmcqa/validation_4183.jsonl", "medmcqa/dev.jsonl"), hub="openlifescienceai/medmcqa")
vote = choices.vote


@task
def medmcqa(data: str | None = None, order_seed: int = 0, max_tokens: int = 16) -> Task:
    """Medical entrance examinations, four options under shuffled letters."""
    source = read(SOURCE, data)
    samples = [_sample(row, order_seed) for row in source.rows]
    return asking(samples, chosen(), source=source, setting="", max_tokens=max_tokens)


def _sample(row: Row, seed: int) -> Sample:
    """A row with `choices` by letter, or of the hub: four columns and the right one's number from 0."""
    name = str(row["id"])
    options = row.get("choices") or {mark: row[f"op{mark.lower()}"] for mark in "ABCD"}
    right = options[row["answer"] if "answer" in row else "ABCD"[row["cop"]]]
    tags = [row["subject_name"]] if row.get("subject_name") else []
    return choice(name, row["question"], shuffled(list(options.values()), name, seed), right, tags=tags)
