"""Cutting an answer into passages that join back to it exactly."""

from __future__ import annotations

import re
from itertools import pairwise

# A sentence ends at closing punctuation before white space and what may open a sentence, or at
# a line break; CJK full stops need no space. What follows the end belongs to it, so nothing is lost.
_END = re.compile(
    r"""(?<=[.!?…])["'”’»)\]]*\s+(?=["'“‘«(\[]?[^\W\d_a-zß-öø-ÿ]|["'“‘«(\[]?\d)"""
    r"""|(?<=[。！？])\s*"""
    r"""|\n\s*"""
)
_ABBREVIATION = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|vs|etc|e\.g|i\.e|cf|No|Nr|Vol|Fig|approx|ca|bzw|z\.B|d\.h)"
    r"|\b[^\W\d_]|\A\s*\d{1,3})\.\s+\Z"  # an initial, or the number of a list's item
)


def sentences(text: str) -> list[str]:
    """The sentences and lines of `text`, each with the white space behind it; joined they are `text`."""
    pieces: list[str] = []
    start = 0
    for end in _END.finditer(text):
        piece = text[start : end.end()]
        if "\n" not in end[0] and _ABBREVIATION.search(piece):
            continue
        if piece.strip():
            pieces.append(piece)
            start = end.end()
    rest = text[start:]
    if rest.strip() or not pieces:
        pieces.append(rest)
    else:
        pieces[-1] += rest
    return [piece for piece in pieces if piece]


def passages(text: str, *, above: int, at_most: int) -> list[str]:
    """`text` whole if it has at most `above` sentences, else cut into at most `at_most` passages.

    Where there are more sentences than passages, neighbours share one, so that all are covered.
    """
    found = sentences(text)
    if len(found) <= above:
        return [text]
    count = min(at_most, len(found))
    bounds = [round(i * len(found) / count) for i in range(count + 1)]
    return ["".join(found[a:b]) for a, b in pairwise(bounds)]
