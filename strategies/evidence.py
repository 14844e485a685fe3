"""Retrieved text is untrusted data: cleaned, cut, fenced and numbered before a model sees it, and
cited by number in what the model says."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from veridical.strategies.passages import sentences
from veridical.strategies.types import Evidence

#: Characters of one passage that a model sees; what is over it is cut at a word.
MAX_PASSAGE_CHARS = 2000
OPEN, CLOSE = "<evidence>", "</evidence>"

_FENCE = re.compile(r"<\s*/?\s*evidence\b(?:[^<>]{0,200}>)?", re.IGNORECASE)
_CITATION = re.compile(r"\[(\d{1,3}(?:\s*,\s*\d{1,3})*)\]")


def cleaned(text: str, limit: int = MAX_PASSAGE_CHARS) -> str:
    """A passage as one line without control, format or private characters or our fence's marks; its
    own [7] becomes (7), lest it be cited as our passage 7. Cut to `limit` characters at a word.

    One line, so that a passage cannot pretend to end and another, with a number, to begin.
    """
    folded = unicodedata.normalize("NFC", text)
    # `isprintable` says no of exactly the categories C and Z, but for the blank.
    plain = folded if folded.isprintable() else "".join(c if c.isprintable() else " " for c in folded)
    while "<" in plain and _FENCE.search(plain):  # what removing one mark joins may be another
        plain = _FENCE.sub(" ", plain)
    line = " ".join((_CITATION.sub(_in_round_brackets, plain) if "[" in plain else plain).split())
    if len(line) <= limit:
        return line
    return line[:limit].rpartition(" ")[0] + " …"


def _in_round_brackets(citation: re.Match[str]) -> str:
    return f"({citation[1]})"


def fenced(evidence: Sequence[Evidence]) -> str:
    """The passages, numbered from 1, between marks that none of them can contain."""
    lines = [f"[{number}] {_titled(each)}" for number, each in enumerate(evidence, 1)]
    return "\n".join((OPEN, *lines, CLOSE))


def _titled(evidence: Evidence) -> str:
    text = cleaned(evidence.text)
    return f"{cleaned(evidence.title, 200)}: {text}" if evidence.title else text


@dataclass(frozen=True, slots=True)
class Citation:
    """A mark such as [2] in an answer: `text[start:end]` is the mark, `evidence` what it points at."""

    start: int
    end: int
    evidence: Evidence

    def to_wire(self) -> dict[str, object]:
        """OpenAI's `url_citation` annotation. A passage without a URL gets a URN of its id."""
        return {
            "type": "url_citation",
            "url_citation": {
                "start_index": self.start,
                "end_index": self.end,
                "title": self.evidence.title or self.evidence.id,
                "url": self.evidence.url or f"urn:evidence:{quote(self.evidence.id, safe='')}",
            },
        }


def citations(text: str, evidence: Sequence[Evidence]) -> list[Citation]:
    """Every mark in `text` that points at a passage that was retrieved; others are left out."""
    return [
        Citation(mark.start(), mark.end(), evidence[number - 1])
        for mark in _CITATION.finditer(text)
        for number in map(int, mark[1].split(","))
        if 1 <= number <= len(evidence)
    ]


@dataclass(frozen=True, slots=True)
class Support:
    """A sentence of an answer, by its offsets, and the ids of the evidence that it cites.

    No ids: the sentence is unsupported.
    """

    start: int
    end: int
    evidence: tuple[str, ...]


def supports(text: str, evidence: Sequence[Evidence]) -> list[Support]:
    """What each sentence of an answer rests on, so that one without support is visible as such."""
    cited = citations(text, evidence)
    found, start = [], 0
    for sentence in sentences(text):
        end = start + len(sentence.rstrip())
        ids = [each.evidence.id for each in cited if start <= each.start < start + len(sentence)]
        if sentence.strip():
            found.append(Support(start, end, tuple(dict.fromkeys(ids))))
        start += len(sentence)
    return found


def distinct(evidence: Iterable[Evidence]) -> list[Evidence]:
    """Each passage once, in the order of its first appearance."""
    return list({each.id: each for each in evidence}.values())
