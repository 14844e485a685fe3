"""HotpotQA (Yang et al., 2018, arXiv 1809.09600): questions over two pages; answer EM and F1."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import Score, Scorer, Target, scorer
from inspect_ai.solver import TaskState

from veridical.evals.asking import asking
from veridical.evals.data import Row, Source, identifier, question, read
from veridical.evals.metrics import hotpot_answer, hotpot_normalised, joint, supporting_facts
from veridical.evals.reading import short_answer
from veridical.evals.scoring import EVERY_FIGURE, account, graded
from veridical.evals.wording import text, wording

SOURCE = Source(
    (
        "hotpotqa/dev_distractor.jsonl",
        "hotpotqa/hotpot_dev_distractor_v1.json",
        "hotpotqa/dev_simplified.json",
    ),
    hub="hotpotqa/hotpot_qa",
    config="distractor",
)
SHORT, WITH_CONTEXT = wording("question/short"), wording("question/with_context")


@task
def hotpotqa(
    setting: Literal["closed_book", "open", "distractor"] = "closed_book",
    data: str | None = None,
    max_tokens: int = 48,
) -> Task:
    """Multi-hop questions. `open` asks as `closed_book` does and leaves retrieval to the endpoint's
    strategy; `distractor` puts the question's ten paragraphs before it."""
    source = read(SOURCE, data)
    samples = [_sample(row, setting) for row in source.rows]
    return asking(samples, overlap(), source=source, setting=setting, max_tokens=max_tokens)


def vote(reply: str) -> str | None:
    """What a reply counts as when draws are put to the vote."""
    answer = short_answer(reply)
    return None if answer is None else hotpot_normalised(answer)


@scorer(metrics=EVERY_FIGURE)
def overlap() -> Scorer:
    """Answer EM and F1; in the open setting also how the cited pages meet the gold pages.

    A citation names a page, not a sentence, so supporting facts are compared by title.
    """

    async def score(state: TaskState, target: Target) -> Score:
        said = short_answer(state.output.completion)
        found = hotpot_answer(said or "", target.text)
        figures = {"em": found.em, "f1": found.f1}
        gold = state.metadata["gold_titles"]
        if state.metadata["open"] and gold:  # always then: an answer that cites nothing has missed them
            facts = supporting_facts(account(state).get("cited") or (), gold)
            both = joint(found, facts)
            figures |= {"sp_em": facts.em, "sp_f1": facts.f1, "joint_em": both.em, "joint_f1": both.f1}
        return graded(figures, said)

    return score


def _sample(row: Row, setting: str) -> Sample:
    if setting == "distractor":
        prompt = text(WITH_CONTEXT, question=row["question"], paragraphs=list(_paragraphs(row["context"])))
    else:
        prompt = text(SHORT, question=row["question"])
    return question(
        row.get("id") or row.get("_id") or identifier(row["question"]),
        prompt,
        target=row["answer"],
        tags=[row["type"]],
        gold_titles=_gold_titles(row),
        open=setting == "open",
    )


def _paragraphs(context: Any) -> Iterator[dict[str, str]]:
    """The paragraphs, in the hub's layout (two parallel lists) or the official file's (pairs)."""
    if isinstance(context, dict):
        context = zip(context["title"], context["sentences"], strict=True)
    for title, sentences in context:
        yield {"title": title, "text": " ".join(sentence.strip() for sentence in sentences)}


def _gold_titles(row: Row) -> list[str]:
    facts = row.get("supporting_facts") or []
    titles = facts["title"] if isinstance(facts, dict) else [title for title, _ in facts]
    return sorted(set(titles))
