"""FActScore's knowledge source: each entity's own page, and the passages of it that fit a fact."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from veridical.evals.data import Rows, Source, read
from veridical.retrievers.chunking import sentences

PASSAGES = Source(("factscore/wiki_passages.jsonl",))
#: English words are on average this many tokens: limits are stated in tokens, texts are cut by words.
TOKENS_PER_WORD = 4 / 3


@dataclass(frozen=True)
class Page:
    """One entity's page, cut into passages at sentence ends."""

    passages: Sequence[str]

    @cached_property
    def _index(self) -> Any:
        import bm25s

        index = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
        index.index([_terms(passage) for passage in self.passages], show_progress=False)
        return index

    def best(self, query: str, k: int) -> list[str]:
        """The `k` passages that share most with the query, the best last, next to the question."""
        if len(self.passages) <= 1:
            return list(self.passages)
        known = [term for term in _terms(query) if term in self._index.vocab_dict]
        scores = self._index.get_scores(known) if known else [0.0] * len(self.passages)
        ranked = sorted(range(len(self.passages)), key=lambda at: -scores[at])[:k]
        return [self.passages[at] for at in reversed(ranked)]


@dataclass(frozen=True)
class Knowledge:
    """The pages by entity."""

    rows: Rows
    tokens: int
    _pages: dict[str, Page] = field(default_factory=dict)

    @classmethod
    def read(cls, data: str | None, tokens: int) -> Knowledge:
        """The pages of the data folder, to be cut into passages of at most `tokens` tokens.

        Raises:
            DataMissing: see `data.read`.
        """
        return cls(read(PASSAGES, data), tokens)

    @cached_property
    def texts(self) -> Mapping[str, list[str]]:
        """The passages of each entity's own page, as the file has them."""
        found: dict[str, list[str]] = {}
        for row in self.rows.rows:
            if row["is_entity_page"]:
                found.setdefault(row["entity"], []).append(row["text"])
        return found

    def page(self, entity: str) -> Page:
        """An entity's page.

        Raises:
            KeyError: there is none.
        """
        if entity not in self._pages:
            words = max(1, round(self.tokens / TOKENS_PER_WORD))
            cut = [passage for text in self.texts[entity] for passage in packed(text, words)]
            self._pages[entity] = Page(list(dict.fromkeys(cut)))
        return self._pages[entity]


def packed(text: str, words: int) -> list[str]:
    """The text in passages of at most `words` words: whole sentences, cut only where one is longer."""
    passages: list[list[str]] = [[]]
    for span in sentences(text):
        own = span.of(text).split()
        for piece in (own[start : start + words] for start in range(0, len(own), words)):
            if len(passages[-1]) + len(piece) > words:
                passages.append([])
            passages[-1] += piece
    return [" ".join(passage) for passage in passages if passage]


def _terms(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
