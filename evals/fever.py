"""FEVER (Thorne et al., 2018, arXiv 1803.05355): three-way label accuracy of claims."""

from __future__ import annotations

from inspect_ai import Task, task
from inspect_ai.scorer import Score, Scorer, Target, scorer
from inspect_ai.solver import TaskState

from veridical.evals.asking import asking
from veridical.evals.data import Source, question, read
from veridical.evals.reading import label
from veridical.evals.scoring import EVERY_FIGURE, graded
from veridical.evals.wording import text, wording

SOURCE = Source(("fever/paper_dev.jsonl",), hub="fever/fever", config="v1.0", split="paper_dev")
CLAIM = wording("question/claim")
#: What a reply may say for each label; "" is a wording that fits two of them.
WORDS = {
    "supported": "SUPPORTS",
    "supports": "SUPPORTS",
    "refuted": "REFUTES",
    "refutes": "REFUTES",
    "not enough info": "NOT ENOUGH INFO",
    "not enough information": "NOT ENOUGH INFO",
    "not supported": "",
    "not refuted": "",
}


@task
def fever(data: str | None = None, max_tokens: int = 16) -> Task:
    """Is a claim supported, refuted, or is there not enough info? The gold label is each record's tag,
    so that accuracy can be read by class."""
    source = read(SOURCE, data)
    samples = [
        question(str(row["id"]), text(CLAIM, claim=row["claim"]), target=row["label"], tags=[row["label"]])
        for row in source.rows
    ]
    return asking(samples, labelled(), source=source, setting="", max_tokens=max_tokens)


def vote(reply: str) -> str | None:
    """The label that a reply names; None where it names none or several."""
    return label(reply, WORDS) or None


@scorer(metrics=EVERY_FIGURE)
def labelled() -> Scorer:
    """Label accuracy; an unparsable reply is wrong."""

    async def score(state: TaskState, target: Target) -> Score:
        said = vote(state.output.completion)
        return graded({"accuracy": float(said == target.text)}, said)

    return score
