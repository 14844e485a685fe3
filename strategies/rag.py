"""Retrieval-augmented answers: find evidence for the question, answer from it, cite it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from veridical.strategies.base import Context, Strategy
from veridical.strategies.evidence import fenced
from veridical.strategies.prompting import Prompt
from veridical.strategies.reply import Reply
from veridical.strategies.types import Conversation

ANSWER = Prompt("rag/answer")


@dataclass(frozen=True)
class RetrievalAugmented(Strategy):
    """Answer from retrieved passages, with a citation for each statement.

    Lewis et al., 2020 (arXiv 2005.11401), in the inference-time form that needs no training:
    the passages stand in the prompt. Where they do not hold the answer, the model is to say so.
    """

    k: Annotated[int, Field(ge=1, le=50, description="Passages to retrieve.")] = 5
    source: Annotated[str, Field(description="Retrieval source, by its configured name.")] = "default"

    name: ClassVar[str] = "rag"
    paper: ClassVar[str] = "Lewis et al., 2020, arXiv 2005.11401"
    calls: ClassVar[str] = "1"
    depth: ClassVar[str] = "1"

    @property
    def sources(self) -> frozenset[str]:
        """The one that it searches."""
        return frozenset({self.source})

    async def __call__(self, conversation: Conversation, ctx: Context) -> Reply:
        """Retrieve with the question, then one call over the same conversation with the passages."""
        ctx.trace.progress("Searching for evidence")
        question = conversation.question
        found = await ctx.retrieve(question, source=self.source, k=self.k)
        if not found:
            ctx.trace.note("No evidence was found for the question.")
        ask = ANSWER(evidence=fenced(found), question=question)
        reply = await ctx.generate(conversation.asking(str(ask.messages[0]["content"])))
        return reply.citing(evidence=found)
