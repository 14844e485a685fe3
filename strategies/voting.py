"""Which of several answers most of them give."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

_EDGES = re.compile(r"\A[\W_]+|[\W_]+\Z")
_ARTICLE = re.compile(r"\A(?:the|an?)\s+")


def normalised(answer: str) -> str:
    """An answer as it is compared: without case, a leading article, marks at its ends or extra space."""
    return _ARTICLE.sub("", _EDGES.sub("", " ".join(answer.casefold().split())))


def majority(answers: Sequence[str]) -> tuple[int, float]:
    """The index of the first member of the largest group of equal answers, and that group's share.

    Of groups of one size the one that came first wins, so that equal input gives equal output.
    """
    keys = [normalised(answer) for answer in answers]
    winner, count = Counter(keys).most_common(1)[0]
    return keys.index(winner), count / len(keys)
