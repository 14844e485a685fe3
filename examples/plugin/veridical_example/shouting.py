"""A tool: how much of a text is in capitals."""

from __future__ import annotations

from veridical.strategies.tools.base import Score, Scorer


class Shouting(Scorer):
    """Scores the share of letters that are capitals; an ordinary sentence stays below `threshold`."""

    threshold = 0.3

    async def score(self, text: str) -> Score:
        """0 for a text without capitals, 1 for one of nothing else."""
        letters = [letter for letter in text if letter.isalpha()]
        share = sum(letter.isupper() for letter in letters) / len(letters) if letters else 0.0
        return Score(share, {"shouting": share})
