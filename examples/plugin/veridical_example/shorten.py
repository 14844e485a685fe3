"""A strategy: answer, then say it in one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from veridical.strategies.base import Context, Strategy, unchanged
from veridical.strategies.prompting import Prompt
from veridical.strategies.reply import Reply
from veridical.strategies.types import Conversation

REWRITE = Prompt("shorten/rewrite", package="veridical_example")


@dataclass(frozen=True)
class Shorten(Strategy):
    """Rewrite an answer that is longer than asked for as one sentence."""

    words: Annotated[int, Field(ge=5, le=100, description="Words of the sentence at most.")] = 25

    name: ClassVar[str] = "shorten"
    paper: ClassVar[str] = "none: an example"
    calls: ClassVar[str] = "2, or 1 if the answer is short enough"
    depth: ClassVar[str] = "2"

    async def __call__(self, conversation: Conversation, ctx: Context) -> Reply:
        """Draft with what stands to the left in a pipe, or the model; rewrite if it is too long."""
        reply, draft = await ctx.draft(conversation)
        if draft.calls_tools or len(draft.text.split()) <= self.words:
            return unchanged(reply, ctx)
        ask = REWRITE(words=self.words).after(conversation.answered(draft.text).messages)
        return (await ctx.reply(ask)).citing(reply.evidence, reply.claims)
