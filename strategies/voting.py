"""Votes over answers: which ones say the same, and which of them most give."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

_AROUND = " \t\n*_`\"'“”‘’«»()[].,;:!?。！？"
_ARTICLE = re.compile(r"\A(?:the|an?)\s+(?=\S)")


def normalised(answer: str) -> str:
    """`answer` as it is compared: without case, marks around it, a leading article and extra space."""
    folded = " ".join(unicodedata.normalize("NFKC", answer).casefold().split())
    return _ARTICLE.sub("", folded.strip(_AROUND))


def majority(answers: Sequence[str]) -> tuple[int, float]:
    """Index of the first member of the largest group of normalised-equal answers, and the group's
    share of all. Of groups of one size the first has it.

    Raises:
        ValueError: there are no answers.
    """
    if not answers:
        raise ValueError("a vote needs answers")
    keys = [normalised(answer) for answer in answers]
    winner, votes = Counter(keys).most_common(1)[0]  # of equal counts the first that was met
    return keys.index(winner), votes / len(keys)
