"""What a tool is. There are three kinds, by what they are given and what they tell:

- a `Searcher` takes a query that the model wrote and gives passages;
- an `Interpreter` takes a program that the model wrote, runs it and tells what came out;
- a `Scorer` takes a text and tells how bad it is.

What a tool gives back is untrusted data, like retrieved text.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from veridical.strategies.types import Evidence

if TYPE_CHECKING:
    from veridical.strategies.base import Context


class Tool:
    """Something outside the model that can check it. One object serves all requests.

    A plug-in names a concrete class of one of the three kinds, which is made without arguments.
    Whatever it raises ends the request's checks, not the request: `Context.using`.
    """


class Searcher(Tool, ABC):
    """Finds passages for a query."""

    @abstractmethod
    async def find(self, query: str, k: int, *, source: str, ctx: Context) -> list[Evidence]:
        """The `k` passages that fit `query` best. `source` is the retrieval source that the request
        names: for a tool that searches the server's own sources."""


@dataclass(frozen=True, slots=True)
class Execution:
    """What a program did.

    `output` is what it printed, `answer` its variable of that name as text (None where it set none),
    `error` what ended it early, in one line.
    """

    output: str = ""
    answer: str | None = None
    error: str | None = None

    @property
    def result(self) -> str | None:
        """What the program found: its `answer`, or else the last line that it printed. None after
        an error."""
        if self.error is not None:
            return None
        value = self.answer if self.answer not in (None, "None", "") else _last_line(self.output)
        return value or None


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


class Interpreter(Tool, ABC):
    """Runs a program that nobody has looked at."""

    @abstractmethod
    async def run(self, code: str) -> Execution:
        """Run `code` without the server's rights, within limits of the tool's own. What the program
        does wrong is told in the `Execution`; only the tool's own failure is raised."""


@dataclass(frozen=True, slots=True)
class Score:
    """How bad a text is: 0 harmless to 1, over all and by attribute (insult, threat, …)."""

    overall: float
    attributes: Mapping[str, float] = field(default_factory=dict)

    @property
    def worst(self) -> str:
        """The attribute that scores highest."""
        return max(self.attributes, key=lambda name: self.attributes[name], default="toxic")


class Scorer(Tool, ABC):
    """Tells how toxic a text is. What scores below `threshold` is good enough."""

    threshold: float = 0.1

    @abstractmethod
    async def score(self, text: str) -> Score:
        """The score of `text`."""
