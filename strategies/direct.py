"""No strategy: the model's own answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from veridical.strategies.base import Context, Strategy
from veridical.strategies.reply import Reply
from veridical.strategies.types import Conversation, Status


@dataclass(frozen=True)
class Direct(Strategy):
    """Pass the conversation to the model and its answer back: the baseline of every comparison."""

    name: ClassVar[str] = "direct"
    paper: ClassVar[str] = "none: the baseline"
    calls: ClassVar[str] = "1"
    depth: ClassVar[str] = "1"

    async def __call__(self, conversation: Conversation, ctx: Context) -> Reply:
        """One call with the client's own parameters."""
        return (await ctx.generate(conversation)).marked(Status.DIRECT)
