"""BM25 over a handful of texts in memory: orders what a remote source sent."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from veridical.retrievers.terms import Analyzer


def bm25_scores(
    query: str, texts: Sequence[str], analyzer: Analyzer, *, k1: float = 1.2, b: float = 0.75
) -> list[float]:
    """The score of each text for the query (Lucene's BM25), 0 where they share no term."""
    counts = [Counter(analyzer(text)) for text in texts]
    lengths = [count.total() for count in counts]
    mean = sum(lengths) / max(len(lengths), 1) or 1.0
    scores = [0.0] * len(texts)
    for term in set(analyzer(query)):
        holders = [number for number, count in enumerate(counts) if term in count]
        idf = math.log(1 + (len(texts) - len(holders) + 0.5) / (len(holders) + 0.5))
        for number in holders:
            times = counts[number][term]
            scores[number] += idf * times / (times + k1 * (1 - b + b * lengths[number] / mean))
    return scores
