"""PopQA (Mallen et al., 2022, arXiv 2212.10511): does an accepted answer occur in the reply?"""

from __future__ import annotations

import json

from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import Score, Scorer, Target, scorer
from inspect_ai.solver import TaskState

from veridical.evals.asking import asking
from veridical.evals.data import Row, Source, question, read
from veridical.evals.metrics import contains, hotpot_answer, hotpot_normalised
from veridical.evals.reading import plain, short_answer
from veridical.evals.scoring import EVERY_FIGURE, graded
from veridical.evals.wording import text, wording

SOURCE = Source(("popqa/popqa_1000.jsonl", "popqa/popqa_2000_qa.jsonl"), hub="akariasai/PopQA", split="test")
SHORT = wording("question/short")


@task
def popqa(data: str | None = None, max_tokens: int = 32) -> Task:
    """Questions about subjects of every popularity; each record's tag is its subject's: "views<100",
    "views<1000", and so on by tens."""
    source = read(SOURCE, data)
    samples = [_sample(row) for row in source.rows]
    return asking(samples, mentioned(), source=source, setting="", max_tokens=max_tokens)


def vote(reply: str) -> str | None:
    """What a reply counts as when draws are put to the vote."""
    answer = short_answer(reply)
    return None if answer is None else hotpot_normalised(answer)


@scorer(metrics=EVERY_FIGURE)
def mentioned() -> Scorer:
    """The official accuracy, and the stricter EM."""

    async def score(state: TaskState, target: Target) -> Score:
        said = short_answer(state.output.completion)
        exact = max(hotpot_answer(said or "", gold).em for gold in target)
        return graded({"accuracy": contains(plain(state.output.completion), list(target)), "em": exact}, said)

    return score


def _sample(row: Row) -> Sample:
    accepted = row.get("golden_answers") or row["possible_answers"]
    accepted = json.loads(accepted) if isinstance(accepted, str) else accepted
    views = row.get("s_pop", (row.get("metadata") or {}).get("s_pop"))
    tags = [] if views is None else [f"views<{10 ** len(str(views))}"]
    return question(str(row["id"]), text(SHORT, question=row["question"]), target=accepted, tags=tags)
