"""What counts as the answer in a model's reply. Strict: what does not fit is unparsable, never guessed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

#: Citation marks that retrieval strategies add, such as [1] or [2, 3]; no part of an answer.
_MARKS = re.compile(r"\s*\[\d+(?:\s*,\s*\d+)*\]")
_LEAD = re.compile(r"^(?:final\s+)?answer\s*:\s*", re.IGNORECASE)
_LABELLED = (
    r"(?:^|\b(?:answer|option|choice)(?:\s+is)?\s*:?\s*)[\(\[\"'*]*({letters})[\)\]\"'*]*(?=[\s.,:;)]|$)"
)


def plain(reply: str) -> str:
    """A reply without citation marks and outer space."""
    return _MARKS.sub("", reply).strip()


def short_answer(reply: str) -> str | None:
    """The first line that is not empty, without marks and a leading "Answer:"; None where there is none."""
    lines = (_LEAD.sub("", line.strip()).strip() for line in plain(reply).splitlines())
    return next((line for line in lines if line), None)


def letter(reply: str, letters: Sequence[str]) -> str | None:
    """The letter that a reply chooses.

    A reply chooses where it begins with a listed capital letter that stands alone ("B", "(B)",
    "B. Paris"), or says "answer", "option" or "choice" and then the letter ("The answer is B."). The
    last choice counts. "A" at the start of a sentence ("A cat sat") is an article: no choice.
    """
    found: str | None = None
    pattern = re.compile(_LABELLED.format(letters="|".join(letters)), re.MULTILINE)
    lead = re.compile(r"\b(answer|option|choice)\b", re.IGNORECASE)
    text = lead.sub(lambda match: match[0].lower(), plain(reply))
    for match in pattern.finditer(text):
        article = match[0] == "A" and re.match(r" +[a-z]", text[match.end() :])
        found = found if article else match[1]
    return found


def label(reply: str, labels: Mapping[str, str]) -> str | None:
    """The one label whose words (keys, lower case) the reply names; None where it names none or several.

    A longer wording hides a shorter one inside it: "not enough info" does not also name "no".
    """
    text, named = plain(reply).lower(), set()
    for words in sorted(labels, key=len, reverse=True):
        text, count = re.subn(rf"\b{re.escape(words)}\b", " ", text)
        named |= {labels[words]} if count else set()
    return named.pop() if len(named) == 1 else None
