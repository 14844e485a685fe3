"""CRITIC's form for computed answers: a program, what it did, a critique of both, a better program."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, Literal

import pydantic
from pydantic import Field

from veridical.strategies.base import Context
from veridical.strategies.evidence import cleaned
from veridical.strategies.prompting import Ask, Prompt
from veridical.strategies.tools.base import Execution, Interpreter
from veridical.strategies.types import Claim, Conversation, Evidence, Params, Verdict

PROGRAM, AGAIN = Prompt("critic/program"), Prompt("critic/program_again")
CRITIQUE = Prompt("critic/program_critique")

#: Rounds in a row that must leave an answer as it is to end a run.
STEADY_ROUNDS = 2
#: As in the paper: a second look at the same program must not say what the first said.
SAMPLING: Params = {"temperature": 0.5, "top_p": 0.5}
#: Characters of what a program printed that a critique sees.
OUTPUT_CHARS = 500


class ProgramCritique(pydantic.BaseModel):
    """A look at a program and what it did."""

    check: Annotated[str, Field(json_schema_extra={"maxLength": 600})]
    verdict: Literal["right", "wrong"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """A program and what it did."""

    code: str
    execution: Execution

    @property
    def report(self) -> str:
        """What happened, in words for a model. It may hold anything that the program printed."""
        done = self.execution
        lines = [f"It printed: {cleaned(done.output, OUTPUT_CHARS)}"] if done.output else []
        if done.error is not None:
            lines.append(f"It ended with an error: {cleaned(done.error, OUTPUT_CHARS)}")
        elif done.answer is not None:
            lines.append(f"answer = {cleaned(done.answer, OUTPUT_CHARS)}")
        else:
            lines.append("It set no variable named answer.")
        return "\n".join(lines)


@dataclass
class Programs:
    """The programs of one run. `claims` are the results that were judged, `name` is the tool's."""

    name: str
    tool: Interpreter
    conversation: Conversation
    ctx: Context
    claims: list[Claim] = field(default_factory=list)

    async def result(self, max_rounds: int) -> str | None:
        """The last result that a program gave. Ends once a result has stood for two rounds."""
        attempt = await self._attempt(PROGRAM())
        result, steady = attempt.execution.result, 0
        for number in range(max_rounds):
            better = await self._better(attempt, number)
            found = better.execution.result
            steady = steady + 1 if result is not None and found in (None, result) else 0
            result, attempt = found or result, better
            if steady == STEADY_ROUNDS:
                break
        return result

    async def _attempt(self, ask: Ask) -> Attempt:
        """Have a program written, without the draft in view, and run it."""
        self.ctx.trace.progress("Writing a program")
        code = program_in(await self.ctx.llm(ask.after(self.conversation.messages), max_tokens=700))
        self.ctx.trace.progress("Running it")
        return Attempt(code, await self.ctx.using(self.name, self.tool.run(code)))

    async def _better(self, attempt: Attempt, number: int) -> Attempt:
        """A program without the faults of this one; this one, if its critique finds none."""
        check = ""
        if attempt.execution.error is None:  # an error needs no judge
            critique = await self._criticised(attempt, number)
            if critique.verdict == "right":
                return attempt
            check = critique.check
        return await self._attempt(AGAIN(code=attempt.code, report=attempt.report, check=check))

    async def _criticised(self, attempt: Attempt, number: int) -> ProgramCritique:
        self.ctx.trace.progress("Judging the program")
        critic = self.ctx.role("critic")
        ask = CRITIQUE(code=attempt.code, report=attempt.report).after(self.conversation.messages)
        critique = await critic.nth(number).parse(ask, ProgramCritique, max_tokens=300, **SAMPLING)
        self._note(attempt, critique)
        return critique

    def _note(self, attempt: Attempt, critique: ProgramCritique) -> None:
        """Keep the program as evidence, and its result as a claim with the critique's verdict."""
        program = f"{attempt.code}\n\n{attempt.report}"
        evidence = Evidence(f"{self.name}:{len(self.claims) + 1}", program, "Program", retriever=self.name)
        verdict = Verdict.SUPPORTED if critique.verdict == "right" else Verdict.REFUTED
        result = attempt.execution.result or "nothing"
        claim = Claim(f"The program gives {result}.", verdict, answer=critique.check, evidence=(evidence.id,))
        self.ctx.trace.evidence[evidence.id] = evidence
        self.ctx.trace.claims.append(claim)
        self.claims.append(claim)


_FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)


def program_in(text: str) -> str:
    """The program in a reply: its first fenced block, or all of it."""
    fence = _FENCE.search(text)
    return (fence[1] if fence else text).strip()
