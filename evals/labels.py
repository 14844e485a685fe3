"""FActScore's human labels: the scores that people gave, and single facts to measure a judge on."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from veridical.evals.data import Row, Source, read
from veridical.evals.metrics import factscore

SYSTEMS = ("ChatGPT", "InstructGPT", "PerplexityAI")


@dataclass(frozen=True)
class HumanScore:
    """A system's mean over the responses that did not abstain, by the human labels."""

    system: str
    score: float
    responses: int
    entities: int
    facts: float


@dataclass(frozen=True)
class LabelledFact:
    """One atomic fact of a system's response, and whether people found it supported."""

    system: str
    entity: str
    fact: str
    supported: bool


def labelled(system: str, data: str | None) -> list[Row]:
    """The rows of a system's labelled file.

    Raises:
        DataMissing: see `data.read`.
    """
    return read(Source((f"factscore/labeled/{system}.jsonl",)), data).rows


def human_scores(data: str | None) -> list[HumanScore]:
    """The human FActScore of each system, without length penalty, as the paper's table 1.

    A sentence without human facts (the annotators found it irrelevant) counts all its model-written
    facts as not supported: without this rule the published scores do not come out.
    """
    return [_human_score(system, labelled(system, data)) for system in SYSTEMS]


def _human_score(system: str, rows: Sequence[Row]) -> HumanScore:
    verdicts = [list(_verdicts(row)) for row in rows]
    found = [score for each in verdicts if (score := factscore(each, gamma=0))]
    return HumanScore(
        system,
        sum(each.precision for each in found) / len(found),
        len(found),
        len(rows),
        sum(each.facts for each in found) / len(found),
    )


def _verdicts(row: Row) -> Iterator[bool]:
    for sentence in row["annotations"] or ():
        human = sentence["human-atomic-facts"]
        if human is None:
            yield from (False for _ in sentence["model-atomic-facts"] or ())
        else:
            yield from (fact["label"] == "S" for fact in human)


def facts(data: str | None, entities: Sequence[str] | set[str]) -> list[LabelledFact]:
    """Every relevant labelled fact (S or NS) about these entities."""
    return [
        LabelledFact(system, row["topic"], fact["text"], fact["label"] == "S")
        for system in SYSTEMS
        for row in labelled(system, data)
        if row["topic"] in entities
        for sentence in row["annotations"] or ()
        for fact in sentence["human-atomic-facts"] or ()
        if fact["label"] in ("S", "NS")
    ]


def balanced(found: Sequence[LabelledFact], n: int, seed: int) -> list[LabelledFact]:
    """About n facts, as many of each system, chosen by the seed; labels stay as frequent as they are."""
    order = random.Random(seed)  # noqa: S311 - a choice, not a secret
    share = -(-n // len(SYSTEMS))
    own = ([fact for fact in found if fact.system == system] for system in SYSTEMS)
    return [fact for each in own for fact in order.sample(each, min(share, len(each)))]
