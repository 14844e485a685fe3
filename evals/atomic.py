"""Atomic facts of a response, as FActScore takes them: sentence by sentence, cleaned, abstentions apart."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from veridical.evals.judge import FACTS, Facts, judged
from veridical.retrievers.chunking import sentences
from veridical.strategies.concurrency import concurrently

#: The released code's "generic" test: an apology at the start, or a request for more.
_ABSTAINS = re.compile(
    r"^\W*(i'?m sorry|i am sorry|sorry|i apologi[sz]e|unfortunately, i)\b|\bprovide (me )?(with )?more\b",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"\d[\d,.]*")


def abstains(response: str) -> bool:
    """Whether a response declines to answer, by its words."""
    return not response.strip() or bool(_ABSTAINS.search(response.replace("’", "'")))


def sentences_of(response: str) -> list[str]:
    """The response line by line, each line sentence by sentence; list marks are dropped."""
    lines = (re.sub(r"^\s*(?:[-*•]|\d+[.)])\s+", "", line) for line in response.splitlines())
    return [span.of(line) for line in lines for span in sentences(line)]


async def atomic_facts(topic: str, response: str, max_tokens: int = 320) -> list[str]:
    """All facts of a response, each once, in order.

    Raises:
        JudgeUnparsable: the judge's output did not fit.
    """

    async def of(sentence: str) -> list[str]:
        found = await judged(FACTS, Facts, max_tokens, topic=topic, sentence=sentence)
        return cleaned(found.facts, sentence, f"{topic} {response}")

    found = await concurrently(of, sentences_of(response))
    return distinct(fact for facts in found for fact in facts)


def cleaned(facts: Sequence[str], sentence: str, known: str) -> list[str]:
    """The released code's clean-up: without repeats, without a fact that another continues, and without
    one that holds a number which the sentence has not; where nothing is left, these stay.

    A fact with a name that is nowhere in `known` is the judge's own (small ones repeat the
    demonstrations) and never stays.
    """
    words = set(_key(known).split())
    own = distinct(fact.strip() for fact in facts if _key(fact) and _names(fact) <= words)
    numbers = _numbers(sentence)
    kept = [
        fact
        for fact in own
        if not any(_key(other).startswith(_key(fact) + " ") for other in own)
        and all(any(known.startswith(number) for known in numbers) for number in _numbers(fact))
    ]
    return kept or own


def distinct(facts: Iterable[str]) -> list[str]:
    """Each fact once, told by its words, in its first wording."""
    found: dict[str, str] = {}
    for fact in facts:
        found.setdefault(_key(fact), fact)
    return list(found.values())


def _names(fact: str) -> set[str]:
    """The words with a capital, lowered, but for the first: a sentence begins with one anyway."""
    return {word.lower() for word in re.findall(r"\w+", fact)[1:] if word[0].isupper()}


def _numbers(text: str) -> list[str]:
    return [found.rstrip(".,") for found in _NUMBER.findall(text)]


def _key(fact: str) -> str:
    return " ".join(re.findall(r"\w+", fact.lower()))
