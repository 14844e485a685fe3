"""The toxicity tool: a trained classifier that runs offline (extra `toxicity`).

alt-profanity-check: a linear support-vector machine over words and word pairs, trained on some
200,000 human-labelled English comments and tweets, its weights shipped in the package. What it cannot
see stands in docs/strategies.md.
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from veridical.strategies.errors import ConfigError
from veridical.strategies.passages import sentences
from veridical.strategies.tools.base import Score, Scorer


@dataclass(frozen=True)
class ToxicityClassifier(Scorer):
    """Scores a text by its worst sentence: one insult is not thinned out by polite words around it.

    Raises:
        ConfigError: the extra is not installed.
    """

    threshold: float = 0.3

    def __post_init__(self) -> None:
        if importlib.util.find_spec("profanity_check") is None:
            raise ConfigError("The tool 'toxicity' needs the extra: pip install 'veridical[toxicity]'.")

    async def score(self, text: str) -> Score:
        """The score, in a worker thread: the model takes seconds to load, once."""
        pieces = [piece for piece in sentences(text) if piece.strip()]
        worst = max(await asyncio.to_thread(_probabilities, pieces), default=0.0) if pieces else 0.0
        return Score(worst, {"offensive": worst})


def _probabilities(texts: Sequence[str]) -> list[float]:
    return [float(each) for each in _model()(texts)]


@lru_cache(maxsize=1)
def _model() -> Callable[[Sequence[str]], Sequence[float]]:
    from profanity_check import predict_prob

    return predict_prob  # type: ignore[no-any-return]  # the package has no types
