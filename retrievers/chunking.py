"""Long texts cut into passages at sentence ends, neighbours sharing their border sentences.

Lengths are in characters, not words: the limit then holds for scripts without spaces too. A
passage is always a slice of the text, so that its offsets can be cited.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

#: A full stop after one of these ends no sentence. Single letters (initials) are covered by the pattern.
_ABBREVIATED = (
    "adm al approx assoc bros ca capt cf co col corp dept dr ed eds eg esp est etc ex fig gen gov hon ie inc "
    "jan feb mar apr jun jul aug sep sept oct nov dec jr lt ltd maj messrs mr mrs ms mt no nos op pl pp prof "
    "pt rep rev sen sgt sr st vol vols vs"
)
_ABBREVIATIONS = frozenset(_ABBREVIATED.split())
#: A possible sentence end: closing punctuation and quotes, then space; a blank line; or CJK punctuation.
_STOP = re.compile(r"[.!?…]+[\"'”’»)\]]*(?=\s)|\n\s*\n|[。！？][」』”]*")
_LAST_WORD = re.compile(r"(\w+)\.$")
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Span:
    """A slice `[start, end)` of a text."""

    start: int
    end: int

    def of(self, text: str) -> str:
        """The characters of `text` that this span covers."""
        return text[self.start : self.end]


def sentences(text: str) -> list[Span]:
    """The sentences of `text` in order, without the space around them.

    Rules, no model: good for passages, where a wrong border costs little; every character that
    is not space is in exactly one sentence.
    """
    borders = [0, *(match.end() for match in _STOP.finditer(text) if _ends(text, match)), len(text)]
    spans = (_trim(text, start, end) for start, end in pairwise(borders))
    return [span for span in spans if span.start < span.end]


def _ends(text: str, stop: re.Match[str]) -> bool:
    if stop.group() != ".":
        return True
    following = text[stop.end() : stop.end() + 2].strip()
    if following and following[0].islower():
        return False
    word = _LAST_WORD.search(text, max(0, stop.start() - 16), stop.end())
    return word is None or not (
        (len(word[1]) == 1 and word[1].isalpha()) or word[1].lower() in _ABBREVIATIONS
    )


def _trim(text: str, start: int, end: int) -> Span:
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    return Span(start, end)


@dataclass(frozen=True, slots=True)
class Chunker:
    """Cuts a text into passages of at most `max_chars`, repeating the last `overlap` sentences before it.

    A text that fits is one passage. Overlap gives way where it would leave no room for a new
    sentence. The default fits the 256 tokens that small embedding models read.
    """

    max_chars: int = 1000
    overlap: int = 1

    def __post_init__(self) -> None:
        if self.max_chars < 1 or self.overlap < 0:
            raise ValueError("max_chars must be at least 1 and overlap at least 0")

    def spans(self, text: str) -> list[Span]:
        """Where the passages of `text` lie."""
        whole = _trim(text, 0, len(text))
        if whole.end - whole.start <= self.max_chars:
            return [whole] if whole.start < whole.end else []
        pieces = [piece for sentence in sentences(text) for piece in self._fit(text, sentence)]
        return list(self._pack(pieces))

    def __call__(self, text: str) -> list[str]:
        """The passages of `text`."""
        return [span.of(text) for span in self.spans(text)]

    def _fit(self, text: str, sentence: Span) -> Iterator[Span]:
        """A sentence that is too long is cut at its last space within the limit, or at the limit."""
        start = sentence.start
        while sentence.end - start > self.max_chars:
            limit = start + self.max_chars
            spaces = [match.start() for match in _SPACE.finditer(text, start + 1, limit + 1)]
            end = spaces[-1] if spaces else limit
            yield Span(start, end)
            start = _trim(text, end, sentence.end).start
        if start < sentence.end:
            yield Span(start, sentence.end)

    def _pack(self, pieces: list[Span]) -> Iterator[Span]:
        first = 0  # the first piece of the passage in hand
        for last, piece in enumerate(pieces):
            if piece.end - pieces[first].start > self.max_chars:
                yield Span(pieces[first].start, pieces[last - 1].end)
                first = max(first + 1, last - self.overlap)
                while piece.end - pieces[first].start > self.max_chars:
                    first += 1
        if pieces:
            yield Span(pieces[first].start, pieces[-1].end)
