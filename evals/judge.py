"""The judge: whatever model has inspect_ai's role `judge`, asked for structured output and read strictly."""

from __future__ import annotations

from enum import StrEnum, auto
from typing import Annotated, TypeVar

import pydantic
from inspect_ai.model import ChatMessageUser, GenerateConfig, get_model

from veridical.evals.wording import text, wording
from veridical.strategies.prompting import Prompt

T = TypeVar("T", bound=pydantic.BaseModel)
FACTS, VERDICT, GRADE = wording("judge/facts"), wording("judge/verdict"), wording("judge/grade")
TRUTH, INFORMATION = wording("judge/truth"), wording("judge/information")
#: The inspect_ai model role of whatever judges.
JUDGE = "judge"
PROMPTS = (FACTS, VERDICT, GRADE, TRUTH, INFORMATION)


class JudgeUnparsable(RuntimeError):
    """The judge's output did not fit, twice: the sample stays ungraded."""


class Decision(pydantic.BaseModel):
    """True or false."""

    answer: bool


#: Told to engines whose grammar honours them: a small judge would go on listing. Nobody is held to them.
Brief = Annotated[str, pydantic.Field(json_schema_extra={"maxLength": 200})]


class Facts(pydantic.BaseModel):
    """The atomic facts of a sentence; none where it states nothing."""

    facts: Annotated[list[Brief], pydantic.Field(json_schema_extra={"maxItems": 12})]


class Label(StrEnum):
    """SimpleQA's grades."""

    CORRECT = auto()
    INCORRECT = auto()
    NOT_ATTEMPTED = auto()


class Grade(pydantic.BaseModel):
    """One grade."""

    grade: Label


async def decides(prompt: Prompt, **variables: object) -> bool:
    """A judge's yes or no to a filled prompt; see `judged`."""
    return (await judged(prompt, Decision, 16, **variables)).answer


async def judged(prompt: Prompt, into: type[T], max_tokens: int, **variables: object) -> T:
    """Ask the judge, greedily, for an object of the class; asked once more where it does not fit.

    Raises:
        JudgeUnparsable: it did not fit twice.
    """
    judge = get_model(role=JUDGE, required=True)
    # inspect_ai's own schemas have no bounds for lists, hence the field as it goes over the wire.
    schema = {"name": into.__name__.lower(), "schema": into.model_json_schema()}
    wanted = {"response_format": {"type": "json_schema", "json_schema": schema}}
    config = GenerateConfig(temperature=0.0, max_tokens=max_tokens, extra_body=wanted)
    fields = ", ".join(f'"{name}"' for name in into.model_fields)
    asked = text(prompt, **variables) + f"\n\nReply with a JSON object that has {fields} only."
    fault = ""
    for _ in range(2):
        output = await judge.generate([ChatMessageUser(content=asked + fault)], config=config)
        try:
            return into.model_validate_json(_bare(output.completion))
        except pydantic.ValidationError as wrong:
            fault = f"\n\nAn earlier reply did not fit: {wrong.errors()[0]['msg']}"
    raise JudgeUnparsable(f"{prompt.name}: the judge's output did not fit, twice")


def _bare(reply: str) -> str:
    """A reply without the code fence that some models put around JSON."""
    return reply.strip().removeprefix("```json").removeprefix("```").removesuffix("```").strip()
