"""OpenBookQA (Mihaylov et al., 2018, arXiv 1809.02789): accuracy over four shuffled options."""

from __future__ import annotations

from inspect_ai import Task, task
from inspect_ai.dataset import Sample

from veridical.evals import choices
from veridical.evals.asking import asking
from veridical.evals.choices import choice, chosen, shuffled
from veridical.evals.data import Row, Source, read

SOURCE = Source(
    ("openbookqa/test_500.jsonl", "openbookqa/test.jsonl"),
    hub="allenai/openbookqa",
    config="main",
    split="test",
)
vote = choices.vote


@task
def openbookqa(data: str | None = None, order_seed: int = 0, max_tokens: int = 16) -> Task:
    """Elementary science, four options under shuffled letters."""
    source = read(SOURCE, data)
    samples = [_sample(row, order_seed) for row in source.rows]
    return asking(samples, chosen(), source=source, setting="", max_tokens=max_tokens)


def _sample(row: Row, seed: int) -> Sample:
    """A row with `choices` by letter, or of the hub: `question_stem` and two parallel lists."""
    given, name = row["choices"], str(row["id"])
    options = dict(zip(given["label"], given["text"], strict=True)) if "label" in given else given
    right = options[row.get("answer") or row["answerKey"]]
    asked = row.get("question") or row["question_stem"]
    return choice(name, asked, shuffled(list(options.values()), name, seed), right)
