"""FActScore (Min et al., 2023, arXiv 2305.14251): the share of a biography's facts that its page supports."""

from __future__ import annotations

import random
from typing import Literal

from inspect_ai import Task, task
from inspect_ai.scorer import Score, Scorer, Target, scorer
from inspect_ai.solver import TaskState

from veridical.evals.asking import asking
from veridical.evals.atomic import abstains, atomic_facts
from veridical.evals.data import Source, question, read
from veridical.evals.judge import VERDICT, decides
from veridical.evals.knowledge import Knowledge
from veridical.evals.metrics import factscore as scored
from veridical.evals.reading import plain
from veridical.evals.scoring import EVERY_FIGURE, graded
from veridical.strategies.concurrency import concurrently

SOURCE = Source(("factscore/entities.jsonl",))
JUDGED = ("labeled", "unlabeled")


@task
def factscore(
    setting: Literal["labeled", "unlabeled"] = "labeled",
    data: str | None = None,
    max_tokens: int = 400,
    facts: int = 0,
    passages: int = 5,
    passage_tokens: int = 256,
    gamma: float = 10.0,
    facts_seed: int = 0,
) -> Task:
    """Biographies of the entities that have a page: the 183 people with human labels, or the other 500.
    `facts`: judge at most so many of a response's facts, chosen by `facts_seed` (0: all); `passages` of
    at most `passage_tokens` tokens each are shown to the judge."""
    source, knowledge = read(SOURCE, data), Knowledge.read(data, passage_tokens)
    samples = [
        question(row["entity"], row["prompt"], group=row["entity"], tags=[row["rarity"]])
        for row in source.rows
        if row["group"] == setting and row["entity"] in knowledge.texts
    ]
    grade = supported(data, passage_tokens, facts, passages, gamma, facts_seed)
    return asking(samples, grade, source=source, setting=setting, max_tokens=max_tokens)


@scorer(metrics=EVERY_FIGURE)
def supported(
    data: str | None, passage_tokens: int, limit: int, passages: int, gamma: float, seed: int
) -> Scorer:
    """`factscore` with the length penalty, `precision` without; both absent where the response abstains
    (`responded` 0). `facts` counts all, `judged` those that were put to the judge."""
    knowledge = Knowledge.read(data, passage_tokens)

    async def score(state: TaskState, target: Target) -> Score:
        entity, response = state.metadata["id"], plain(state.output.completion)
        found = [] if abstains(response) else await atomic_facts(entity, response)
        if not found:
            return graded({"responded": 0.0}, response)
        page = knowledge.page(entity)

        async def verdict(fact: str) -> bool:
            shown = page.best(f"{entity} {fact}", passages)
            return await decides(VERDICT, topic=entity, passages=shown, fact=fact)

        verdicts = await concurrently(verdict, some(found, limit, f"{seed}:{entity}"))
        result = scored(verdicts, len(found), gamma)
        assert result is not None  # noqa: S101 - there are verdicts
        figures = {"factscore": result.score, "precision": result.precision, "responded": 1.0}
        return graded({**figures, "facts": float(len(found)), "judged": float(len(verdicts))}, response)

    return score


def some(facts: list[str], limit: int, seed: str) -> list[str]:
    """At most `limit` facts, a choice that depends on the seed alone; 0 takes all."""
    if not limit or len(facts) <= limit:
        return facts
    return random.Random(seed).sample(facts, limit)  # noqa: S311 - a choice, not a secret
