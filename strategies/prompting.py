"""Prompts are data: wording in `prompts/METHOD/STEP.md`, versioned by hash, strict about variables."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib import resources
from typing import TYPE_CHECKING

from veridical.strategies.types import Conversation, Message

if TYPE_CHECKING:
    import jinja2


@cache
def environment() -> jinja2.Environment:
    """How wordings are read. Jinja2 is imported here, by the first who needs it: a relay does not."""
    import jinja2
    import jinja2.meta

    return jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701 - these are prompts, not pages: there is no markup to escape
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
    )


@dataclass(frozen=True, slots=True)
class Ask:
    """Messages ready to send. `step` names them in the trace, `prompt` the wording's version."""

    step: str
    messages: tuple[Message, ...]
    prompt: str | None = None

    def after(self, messages: Sequence[Message]) -> Ask:
        """The same ask at the end of a conversation: what is shared stands first, so that a
        prefix-caching server reuses it."""
        return replace(self, messages=(*messages, *self.messages))

    def over(self, conversation: Conversation) -> Ask:
        """The same ask in the place of the conversation's last question, what came before it kept."""
        text = str(self.messages[0]["content"])
        return replace(self, messages=conversation.asking(text).messages)


class Prompt:
    """A prompt file. Calling it fills its variables and gives the user message to send.

    Its first line is a comment that cites the source of the step. Unknown and missing
    variables are errors.
    """

    def __init__(self, name: str, package: str = "veridical.strategies") -> None:
        self.name = name
        self._package = package

    @cached_property
    def source(self) -> str:
        """The file's text."""
        method, _, step = self.name.partition("/")
        file = resources.files(self._package) / "prompts" / method / f"{step}.md"
        return file.read_text(encoding="utf-8")

    @cached_property
    def version(self) -> str:
        """NAME@HASH, the hash over the whole file."""
        return f"{self.name}@{hashlib.sha256(self.source.encode()).hexdigest()[:12]}"

    @cached_property
    def variables(self) -> frozenset[str]:
        """The variables that the wording uses."""
        from jinja2.meta import find_undeclared_variables

        return frozenset(find_undeclared_variables(environment().parse(self.source)))

    @cached_property
    def _template(self) -> jinja2.Template:
        template = environment().from_string(self.source)
        template.globals = dict(template.globals)  # a ChainMap, which each rendering would walk in Python
        return template

    def __call__(self, **variables: object) -> Ask:
        """The wording with its variables filled in, as one user message.

        Raises:
            TypeError: a variable is missing or unknown.
        """
        if unknown := variables.keys() ^ self.variables:
            raise TypeError(f"prompt {self.name}: variables {sorted(unknown)} are missing or unknown")
        text = self._template.render(**variables).strip()
        return Ask(self.name, ({"role": "user", "content": text},), self.version)
