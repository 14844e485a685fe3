"""SimpleQA (Wei et al., 2024, arXiv 2411.04368): correct, incorrect or not attempted, by a judge."""

from __future__ import annotations

from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import Score, Scorer, Target, scorer
from inspect_ai.solver import TaskState

from veridical.evals.asking import asking
from veridical.evals.data import Row, Source, identifier, question, read
from veridical.evals.judge import GRADE, Grade, Label, judged
from veridical.evals.metrics import hotpot_normalised
from veridical.evals.reading import plain, short_answer
from veridical.evals.scoring import EVERY_FIGURE, graded
from veridical.evals.wording import text, wording

SOURCE = Source(("simpleqa/simple_qa_test_set.csv",), hub="basicv8vc/SimpleQA", split="test")
JUDGED = ("",)
SHORT = wording("question/short")


@task
def simpleqa(data: str | None = None, max_tokens: int = 32) -> Task:
    """Short questions that models get wrong. `correct` counts all questions; `given_attempted` only
    those that were attempted."""
    source = read(SOURCE, data)
    samples = [_sample(row) for row in source.rows]
    return asking(samples, three_grades(), source=source, setting="", max_tokens=max_tokens)


def vote(reply: str) -> str | None:
    """What a reply counts as when draws are put to the vote."""
    answer = short_answer(reply)
    return None if answer is None else hotpot_normalised(answer)


@scorer(metrics=EVERY_FIGURE)
def three_grades() -> Scorer:
    """An empty reply is not attempted, without asking the judge."""

    async def score(state: TaskState, target: Target) -> Score:
        answer = plain(state.output.completion)
        found = Label.NOT_ATTEMPTED
        if answer:
            asked = {"question": state.metadata["question"], "gold": target.text, "answer": answer}
            found = (await judged(GRADE, Grade, 24, **asked)).grade
        right, attempted = float(found is Label.CORRECT), found is not Label.NOT_ATTEMPTED
        figures = {"correct": right, "attempted": float(attempted)}
        return graded(figures | ({"given_attempted": right} if attempted else {}), answer or None)

    return score


def _sample(row: Row) -> Sample:
    asked = row["problem"]
    return question(identifier(asked), text(SHORT, question=asked), target=row["answer"], question=asked)
