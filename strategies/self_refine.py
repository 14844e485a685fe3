"""Self-Refine: the model reviews its own answer and rewrites it, with no signal from outside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import pydantic
from pydantic import Field

from veridical.strategies.base import Context, Strategy, unchanged, unchecked
from veridical.strategies.prompting import Prompt
from veridical.strategies.reply import Reply
from veridical.strategies.types import Conversation, Status

FEEDBACK, REFINE = Prompt("self_refine/feedback"), Prompt("self_refine/refine")


class Feedback(pydantic.BaseModel):
    """A review of the latest answer; `done` is the paper's stop condition."""

    feedback: Annotated[str, Field(json_schema_extra={"maxLength": 1000})]
    done: bool


@dataclass(frozen=True)
class SelfRefine(Strategy):
    """Review the answer, rewrite it by the review, until the review asks for no change.

    Madaan et al., 2023 (arXiv 2303.17651). One model plays writer, critic and editor; there is no
    tool and no evidence, which makes it the control for methods that have them.
    """

    max_rounds: Annotated[int, Field(ge=1, le=8, description="Reviews, each with a rewriting, at most.")] = 4

    name: ClassVar[str] = "self_refine"
    paper: ClassVar[str] = "Madaan et al., 2023, arXiv 2303.17651"
    calls: ClassVar[str] = "1+2L for L rounds; 2+2L if a further review asks for no change"
    depth: ClassVar[str] = "as many: each call waits for the one before"

    async def __call__(self, conversation: Conversation, ctx: Context) -> Reply:
        """Draft, then review and rewrite in turn. Every call continues the same conversation, so that it
        sees all earlier answers and reviews, and a prefix-caching server has read them already. How a
        review is asked for does not stand in it: a small model would go on to answer in that form."""
        drafted, draft = await ctx.draft(conversation)
        if draft.calls_tools or not draft.text.strip():
            return unchecked(drafted, ctx, "The draft holds no text to review; it is returned as it is.")
        latest, text, talk = drafted, draft.text, conversation
        for turn in range(1, self.max_rounds + 1):
            ctx.trace.progress(f"Reviewing, round {turn}")
            talk = talk.answered(text)
            found = await ctx.llm.parse(FEEDBACK().after(talk.messages), Feedback)
            if found.done or not found.feedback.strip():
                break
            ask = REFINE(feedback=found.feedback.strip()).after(talk.messages)
            refined = (await ctx.reply(ask)).citing(drafted.evidence, drafted.claims)
            if turn == self.max_rounds:
                return refined
            before, text = text, (await refined.read()).text
            if not text.strip() or text.strip() == before.strip():
                break
            ctx.keep(refined)
            latest, talk = refined, Conversation(ask.messages)
        return unchanged(drafted, ctx) if latest is drafted else latest.marked(Status.VERIFIED)
