"""Text to index terms: one analysis for corpus and query, or nothing matches."""

from __future__ import annotations

import re
import threading
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from veridical.retrievers.errors import RetrieverMisconfigured

_WORD = re.compile(r"\w+")

#: Lucene's English stop words without "not" and "no", which change what is asked, and with the
#: question words and contraction tails that a question brings along.
_STOPPED = (
    "a an and are as at be but by for had has have he her his i if in into is it its of on or s she such t "
    "that the their then there these they this to was were what when where which who whom whose why how will "
    "with did do does"
)
STOP_WORDS = frozenset(_STOPPED.split())


@dataclass(frozen=True)
class Analyzer:
    """Lower-cases, strips accents, drops stop words and stems (Snowball).

    `language` is a Snowball algorithm name, or "" for no stemming; the stop words are English
    and apply to English only.
    """

    language: str = "english"
    _local: threading.local = field(default_factory=threading.local, repr=False, compare=False)

    def __call__(self, text: str) -> list[str]:
        """The terms of `text` in order, repeats kept."""
        stopped = self.stop_words
        return self.stem([word for word in self.words(text) if word not in stopped])

    @property
    def stop_words(self) -> frozenset[str]:
        """The words that are not indexed."""
        return STOP_WORDS if self.language == "english" else frozenset()

    def words(self, text: str) -> list[str]:
        """The words of `text`, folded, before stop words and stemming."""
        return _WORD.findall(fold(text))

    def stem(self, words: list[str]) -> list[str]:
        """The stems of `words`, one each."""
        if not self.language:
            return words
        # A Snowball stemmer keeps state between words: each thread needs its own.
        stem: Callable[[list[str]], list[str]] | None = getattr(self._local, "stem", None)
        if stem is None:
            stem = self._local.stem = _stemmer(self.language).stemWords
        return stem(words)


def fold(text: str) -> str:
    """Lower case without accents: "Beyoncé" and "Beyonce" are one term."""
    if text.isascii():
        return text.lower()
    decomposed = unicodedata.normalize("NFKD", text.lower())
    return "".join(char for char in decomposed if not unicodedata.combining(char))


def _stemmer(language: str) -> Any:
    try:
        import Stemmer
    except ImportError as missing:
        raise RetrieverMisconfigured(
            "BM25 needs the extra 'bm25': pip install 'veridical[bm25]'"
        ) from missing
    if language not in Stemmer.algorithms():
        raise RetrieverMisconfigured(
            f"No stemmer for {language!r}; there are: {', '.join(Stemmer.algorithms())}"
        )
    return Stemmer.Stemmer(language)
