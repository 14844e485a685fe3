"""Votes over answers: which words count as the same, and which answer most of them give."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Hashable, Sequence

from veridical.strategies.passages import sentences

#: What announces the answer behind a chain of reasoning, at the start of a line or in its last sentence.
_CONCLUSION = re.compile(
    r"(?:^[ \t>*_#-]*(?:final\s+)?answer[*_]*\s*[:=]"
    r"|\b(?:the|my)\s+(?:final\s+|correct\s+)?answer\s+is\b:?"
    r"|^[ \t]*####)[*_ \t]*(?P<answer>[^\n]+)",
    re.IGNORECASE | re.MULTILINE,
)
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")
_GROUPED = re.compile(r"(?<![\d,.])\d{1,3}(?:,\d{3})+(?![\d,])")
#: What is neither a letter, a digit nor white space.
_MARK = re.compile(r"[^\w\s]|_")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
# fmt: off
_NUMERALS = {
    "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6",
    "seven": "7", "eight": "8", "nine": "9", "ten": "10", "eleven": "11", "twelve": "12",
}
# fmt: on


def conclusion(text: str) -> str:
    """What an answer comes down to: the words behind its last "Answer:", "the answer is" or in its
    last box, else the whole text."""
    found = [match["answer"] for match in _CONCLUSION.finditer(text)]
    boxed = _BOXED.findall(text)
    concluded = (boxed[-1] if boxed else found[-1] if found else "").strip()
    if not concluded:
        return text.strip()
    first, *_ = sentences(f"= {concluded}")  # a number at the start would be taken for a list's
    return first[2:].strip()


def normalised(answer: str) -> str:
    """An answer without what does not change it: case, articles, punctuation, white space, the way
    in which a number is written ("1,000.0" and "1000", "seven" and "7").

    The steps of SQuAD's scorer (Rajpurkar et al., 2016, arXiv 1606.05250), and numbers; a sign and
    a decimal point are no punctuation. Words of any script and their accents stay.
    """
    text = unicodedata.normalize("NFKC", answer).casefold()
    text = _GROUPED.sub(_ungrouped, text) if "," in text else text
    if text.isascii() and not _NUMERIC_MARK.search(text):
        text = text.translate(_PLAIN_MARKS)  # as `_spelled` has them, all at once
    else:
        text = _MARK.sub(_spelled, text)
    words = _ARTICLE.sub(" ", text).split() or text.split()  # "A" may be the answer
    return " ".join([_number(_NUMERALS.get(word, word)) for word in words])


def _ungrouped(number: re.Match[str]) -> str:
    return number[0].replace(",", "")


def _spelled(mark: re.Match[str]) -> str:
    """The mark, or a blank for punctuation; nothing for what joins its word ("U.S.", "it's")."""
    char, text, at = mark[0], mark.string, mark.start()
    if unicodedata.category(char).startswith("M"):
        return char
    before, after = text[at - 1 : at], text[at + 1 : at + 2]
    if after.isdigit() and char in "-−" and not before.isalnum():
        return "-"
    if after.isdigit() and char == "." and before.isdigit():
        return "."
    if char in "'’.":
        return ""
    return char if unicodedata.category(char) in ("Sc", "Sm", "So") or char == "%" else " "


def _number(word: str) -> str:
    if not word[-1].isdigit():
        return word
    sign, digits = ("-", word[1:]) if word.startswith("-") else ("", word)
    if not _NUMBER.fullmatch(digits) or not digits.isascii():
        return word
    whole, _, part = digits.partition(".")
    value = (whole.lstrip("0") or "0") + (f".{part.rstrip('0')}" if part.rstrip("0") else "")
    return value if value == "0" else sign + value


#: A mark whose meaning the digit behind it decides.
_NUMERIC_MARK = re.compile(r"[-.]\d")
#: What becomes of every other ASCII mark.
_PLAIN_MARKS = {ord(mark[0]): _spelled(mark) for mark in _MARK.finditer("".join(map(chr, range(128))))}


def plurality(votes: Sequence[Hashable]) -> tuple[int, float]:
    """The index of the first member of the largest group of equal votes, and the group's share.

    Of groups of one size the one that came first wins.

    Raises:
        ValueError: there are no votes.
    """
    if not votes:
        raise ValueError("nothing to vote on")
    winner, count = Counter(votes).most_common(1)[0]  # equal counts come in order of appearance
    return votes.index(winner), count / len(votes)


def majority(answers: Sequence[str]) -> tuple[int, float]:
    """The index of the first member of the largest group of normalised-equal answers, and its share."""
    return plurality([normalised(answer) for answer in answers])
