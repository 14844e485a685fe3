"""TriviaQA (Joshi et al., 2017, arXiv 1705.03551), closed book: EM and F1 over all accepted strings."""

from __future__ import annotations

from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import Score, Scorer, Target, scorer
from inspect_ai.solver import TaskState

from veridical.evals.asking import asking
from veridical.evals.data import Row, Source, question, read
from veridical.evals.metrics import trivia_answer, trivia_normalised
from veridical.evals.reading import short_answer
from veridical.evals.scoring import EVERY_FIGURE, graded
from veridical.evals.wording import text, wording

SOURCE = Source(
    ("triviaqa/triviaqa_sample.jsonl", "triviaqa/unfiltered-web-dev.json"),
    hub="mandarjoshi/trivia_qa",
    config="unfiltered.nocontext",
)
SHORT = wording("question/short")


@task
def triviaqa(data: str | None = None, max_tokens: int = 32) -> Task:
    """Trivia questions with all their accepted answers."""
    source = read(SOURCE, data)
    samples = [_sample(row) for row in source.rows]
    return asking(samples, aliases(), source=source, setting="", max_tokens=max_tokens)


def vote(reply: str) -> str | None:
    """What a reply counts as when draws are put to the vote."""
    answer = short_answer(reply)
    return None if answer is None else trivia_normalised(answer)


@scorer(metrics=EVERY_FIGURE)
def aliases() -> Scorer:
    """EM and F1, each the maximum over the accepted strings."""

    async def score(state: TaskState, target: Target) -> Score:
        said = short_answer(state.output.completion)
        found = trivia_answer(said or "", list(target))
        return graded({"em": found.em, "f1": found.f1}, said)

    return score


def _sample(row: Row) -> Sample:
    """A row of the sample (`answers`), or of the official file and the hub (`answer` with its parts)."""
    accepted = row.get("answers") or _official(row.get("answer") or row["Answer"])
    name = str(row.get("id") or row.get("question_id") or row["QuestionId"])
    asked = row.get("question") or row["Question"]
    return question(name, text(SHORT, question=asked), target=accepted)


def _official(answer: Row) -> list[str]:
    """Aliases and the annotators' own answers; the script normalises both."""
    plain = {name.lower().replace("_", ""): value for name, value in answer.items()}
    return [*plain.get("normalizedaliases", ()), *plain.get("aliases", ()), *plain.get("humananswers", ())]
