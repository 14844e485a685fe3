"""The data sets' own metrics, rule by rule as their official scripts define them."""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_DELETE = str.maketrans("", "", string.punctuation)
_SPACE = {ord(mark): " " for mark in string.punctuation + "‘’´`"}
#: Answers that HotpotQA scores all or nothing: a longer text that holds one earns no F1.
_CLOSED = frozenset({"yes", "no", "noanswer"})


class Overlap(NamedTuple):
    """How a prediction covers a gold answer or a gold set; all in [0, 1]."""

    em: float
    f1: float
    precision: float
    recall: float


def hotpot_normalised(text: str) -> str:
    """Lower case, ASCII punctuation deleted (no space put in its place), articles out, spaces collapsed."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_DELETE)).split())


def hotpot_answer(prediction: str, gold: str) -> Overlap:
    """HotpotQA's answer EM and F1 (official script, `f1_score`), with the rule for yes, no and noanswer."""
    said, right = hotpot_normalised(prediction), hotpot_normalised(gold)
    if said != right and (said in _CLOSED or right in _CLOSED):
        return Overlap(0.0, 0.0, 0.0, 0.0)
    return _overlap(said, right)


def supporting_facts(predicted: Collection[Hashable], gold: Collection[Hashable]) -> Overlap:
    """HotpotQA's supporting-fact scores over sets; EM is 1 only where the sets are equal."""
    said, right = set(predicted), set(gold)
    precision, recall = _ratio(len(said & right), len(said)), _ratio(len(said & right), len(right))
    return Overlap(float(said == right), _f1(precision, recall), precision, recall)


def joint(answer: Overlap, facts: Overlap) -> Overlap:
    """HotpotQA's joint scores: products of precision, recall and EM, and the F1 of those products."""
    precision, recall = answer.precision * facts.precision, answer.recall * facts.recall
    return Overlap(answer.em * facts.em, _f1(precision, recall), precision, recall)


def trivia_normalised(text: str) -> str:
    """Underscores and punctuation (four quotation marks included) become spaces, articles go."""
    return " ".join(_ARTICLES.sub(" ", text.replace("_", " ").lower().translate(_SPACE)).split())


def trivia_answer(prediction: str, aliases: Sequence[str]) -> Overlap:
    """TriviaQA's EM and F1: each the maximum over all accepted strings; no rule for yes and no."""
    said = trivia_normalised(prediction)
    found = [_overlap(said, trivia_normalised(alias)) for alias in aliases]
    return Overlap(*(max(figures) for figures in zip(*found, strict=True)))


def contains(prediction: str, answers: Sequence[str]) -> float:
    """PopQA's accuracy: 1 where any accepted string occurs in the prediction as it stands, lowered or
    capitalised."""
    forms = {form for answer in answers for form in (answer, answer.lower(), answer.capitalize())}
    return float(any(form in prediction for form in forms if form))


def _overlap(said: str, right: str) -> Overlap:
    words, wanted = said.split(), right.split()
    shared = sum((Counter(words) & Counter(wanted)).values())
    precision, recall = _ratio(shared, len(words)), _ratio(shared, len(wanted))
    return Overlap(float(said == right), _f1(precision, recall), precision, recall)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def mc1(true: Sequence[float], false: Sequence[float]) -> float:
    """TruthfulQA MC1: 1 where the best true option's log-probability is strictly above every false one's."""
    return float(max(true) > max(false))


def mc2(true: Sequence[float], false: Sequence[float]) -> float:
    """TruthfulQA MC2: the true options' share of the probability, by log-sum-exp: long options underflow."""
    return math.exp(log_sum_exp(true) - log_sum_exp([*true, *false]))


def mc3(true: Sequence[float], false: Sequence[float]) -> float:
    """TruthfulQA MC3: the share of true options above every false one."""
    return sum(each > max(false) for each in true) / len(true)


def log_sum_exp(values: Sequence[float]) -> float:
    """log Σ exp, without overflow or underflow."""
    top = max(values)
    return top + math.log(sum(math.exp(value - top) for value in values))


class Similarity(NamedTuple):
    """TruthfulQA's reference scores: `best` = nearest true reference, `diff` = its lead over the nearest
    false one, `acc` = whether it leads."""

    best: float
    diff: float
    acc: float


def similarity(measure: Callable[[str], float], true: Sequence[str], false: Sequence[str]) -> Similarity:
    """Compare one answer with every reference by `measure(reference)`, as TruthfulQA does."""
    near, far = max(map(measure, true)), max(map(measure, false))
    return Similarity(near, near - far, float(near > far))


@dataclass(frozen=True)
class FactScore:
    """FActScore of one response; see `factscore`."""

    score: float
    precision: float
    facts: int


def factscore(verdicts: Sequence[bool], facts: int | None = None, gamma: float = 10.0) -> FactScore | None:
    """Share of supported atomic facts, with the released code's length penalty exp(1 - gamma/facts).

    `facts` is the number of facts in the response where only some were judged; `gamma` = 0 turns the
    penalty off. None where there is nothing to judge: the response abstains and is left out of the mean.
    """
    if not verdicts:
        return None
    count = len(verdicts) if facts is None else facts
    precision = sum(verdicts) / len(verdicts)
    penalty = math.exp(1 - gamma / count) if count < gamma else 1.0
    return FactScore(precision * penalty, precision, count)
