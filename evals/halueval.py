"""HaluEval (Li et al., 2023, arXiv 2305.11747), questions and answers: which answers are invented?"""

from __future__ import annotations

from typing import Literal

from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import Score, Scorer, Target, scorer
from inspect_ai.solver import TaskState

from veridical.evals.asking import asking
from veridical.evals.data import Row, Source, identifier, question, read
from veridical.evals.metrics import hotpot_normalised
from veridical.evals.reading import label, plain
from veridical.evals.scoring import EVERY_FIGURE, account, graded
from veridical.evals.wording import text, wording

SOURCE = Source(
    ("halueval/qa_data.json", "halueval/qa_one-turn_data.jsonl"),
    hub="pminervini/HaluEval",
    config="qa",
    split="data",
)
RECOGNISE, REPEAT = wording("question/recognise"), wording("question/repeat")
WORDS = {"yes": "yes", "no": "no"}


@task
def halueval(
    setting: Literal["recognise", "claims"] = "recognise",
    data: str | None = None,
    knowledge: bool = False,
    max_tokens: int = 16,
) -> Task:
    """Is a given answer hallucinated? Both answers of every pair are asked about. `recognise` asks in
    words (`knowledge`: with the passage before it); `claims` has the model repeat the answer, so that
    a detecting strategy such as `lm_vs_lm(on_reject=flag)` examines it, and reads its verdicts."""
    source = read(SOURCE, data)
    samples = [sample for row in source.rows for sample in _pair(row, setting, knowledge)]
    grade = told() if setting == "recognise" else detected()
    room = max_tokens if setting == "recognise" else max(max_tokens, 128)
    return asking(samples, grade, source=source, setting=setting, max_tokens=room)


def vote(reply: str) -> str | None:
    """yes or no; None where a reply says neither or both."""
    return label(reply, WORDS)


@scorer(metrics=EVERY_FIGURE)
def told() -> Scorer:
    """Accuracy of the reply's yes or no; `said_yes` is the share called hallucinated."""

    async def score(state: TaskState, target: Target) -> Score:
        return _graded(vote(state.output.completion), target.text)

    return score


@scorer(metrics=EVERY_FIGURE)
def detected() -> Scorer:
    """Accuracy of the strategy's claims: any that is not supported calls the answer hallucinated.

    Unparsable where the model did not repeat the answer, or the strategy reports no verdict.
    """

    async def score(state: TaskState, target: Target) -> Score:
        same = hotpot_normalised(plain(state.output.completion)) == state.metadata["repeated"]
        verdicts = [claim["verdict"] for claim in account(state).get("claims") or () if claim["verdict"]]
        if not same or not verdicts:
            return _graded(None, target.text)
        return _graded("no" if set(verdicts) == {"supported"} else "yes", target.text)

    return score


def _graded(said: str | None, right: str) -> Score:
    figures = {"accuracy": float(said == right)}
    if said is not None:
        figures["said_yes"] = float(said == "yes")
    return graded(figures, said)


def _pair(row: Row, setting: str, knowledge: bool) -> list[Sample]:
    """Both answers of a pair: one group, each with what it is as its tag."""
    asked = row["question"]
    name = identifier(asked, row["right_answer"], row["hallucinated_answer"])
    found = []
    for kind, target in (("right", "no"), ("hallucinated", "yes")):
        answer = row[f"{kind}_answer"]
        if setting == "claims":
            prompt = text(REPEAT, question=asked, answer=answer)
        else:
            shown = row["knowledge"] if knowledge else ""
            prompt = text(RECOGNISE, question=asked, answer=answer, knowledge=shown)
        repeated = hotpot_normalised(answer)
        found.append(
            question(f"{name}/{kind}", prompt, target=target, group=name, tags=[kind], repeated=repeated)
        )
    return found
