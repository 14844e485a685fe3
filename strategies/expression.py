"""The language in which a strategy is asked for: `cok|critic(max_rounds=2,queries_ahead=0)`.

    pipe  = stage *("|" stage)
    stage = NAME ["(" [option *("," option)] ")"]
    option = NAME "=" (NUMBER | NAME | STRING)

`true`, `false` and `none` are the values they name; any other bare NAME is a string. The same
things in JSON: a string, `{"name": "cove", "options": {"max_questions": 4}}`, or a list of either.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from veridical.strategies.errors import InvalidRequest

MAX_LENGTH = 1000
MAX_STAGES = 8

NAME = r"[A-Za-z_][A-Za-z0-9_.-]*"

_TOKEN = re.compile(
    rf"""\s*(?:(?P<name>{NAME})"""
    r"""|(?P<number>[+-]?(?:\d+\.\d*|\.\d+|\d+)(?:[eE][+-]?\d+)?)"""
    r"""|(?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')"""
    r"""|(?P<mark>[|(),=]))"""
)
_WORDS: Mapping[str, bool | None] = {"true": True, "false": False, "none": None}


@dataclass(frozen=True, slots=True)
class Stage:
    """One strategy of a pipe as it was asked for: a name and its options, not yet validated."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


def parse_expression(text: str) -> tuple[Stage, ...]:
    """Read a strategy expression.

    Raises:
        InvalidRequest: it is empty, too long or not of the grammar; says where.
    """
    if len(text) > MAX_LENGTH:
        raise _wrong(f"it is longer than {MAX_LENGTH} characters")
    return _Reader(text).pipe()


def read_strategy(value: Any) -> tuple[Stage, ...]:
    """Read a strategy from JSON: an expression, an object {name, options}, or a list of them."""
    items = value if isinstance(value, list) else [value]
    stages = tuple(stage for item in items[: MAX_STAGES + 1] for stage in _read_one(item))
    if not stages or len(stages) > MAX_STAGES:
        raise _wrong(f"it must have 1 to {MAX_STAGES} stages")
    return stages


def _read_one(item: Any) -> tuple[Stage, ...]:
    if isinstance(item, str):
        return parse_expression(item)
    if not isinstance(item, Mapping) or not isinstance(item.get("name"), str):
        raise _wrong('expected a string or an object {"name": …, "options": {…}}')
    options = item.get("options", {})
    if unknown := item.keys() - {"name", "options"}:
        raise _wrong(f"unknown field {sorted(map(str, unknown))[0][:80]!r}; options go into 'options'")
    if not isinstance(options, Mapping):
        raise _wrong("'options' must be an object")
    return (Stage(item["name"], options),)


def too_long() -> InvalidRequest:
    """The error of a pipe with too many stages."""
    return _wrong(f"it has more than {MAX_STAGES} stages")


def _wrong(why: str) -> InvalidRequest:
    return InvalidRequest(f"The strategy cannot be read: {why}.", param="strategy")


class _Reader:
    """A recursive-descent reader without the recursion: the grammar does not nest."""

    def __init__(self, text: str) -> None:
        self.text = text.rstrip()
        self.at = 0

    def pipe(self) -> tuple[Stage, ...]:
        stages = [self.stage()]
        while self.peek() == "|":
            self.take("mark")
            stages.append(self.stage())
            if len(stages) > MAX_STAGES:
                raise too_long()
        if self.at < len(self.text):
            raise self.unexpected("'|' or the end")
        return tuple(stages)

    def stage(self) -> Stage:
        name = self.take("name", "a strategy's name")
        options: dict[str, Any] = {}
        if self.peek() == "(":
            self.take("mark")
            while self.peek() != ")":
                self.option(options)
                if self.peek() not in (",", ")"):
                    raise self.unexpected("',' or ')'")
                if self.peek() == ",":
                    self.take("mark")
            self.take("mark")
        return Stage(name, options)

    def option(self, options: dict[str, Any]) -> None:
        name = self.take("name", "an option's name")
        if name in options:
            raise _wrong(f"option {name[:80]!r} is given twice")
        if self.peek() != "=":
            raise self.unexpected("'='")
        self.take("mark")
        options[name] = self.value()

    def value(self) -> Any:
        match = _TOKEN.match(self.text, self.at)
        kind = match.lastgroup if match else None
        if kind == "name":
            word = self.take("name")
            return _WORDS.get(word, word)
        if kind == "number":
            number = self.take("number")
            return int(number) if re.fullmatch(r"[+-]?\d+", number) else float(number)
        if kind == "string":
            return re.sub(r"\\(.)", r"\1", self.take("string")[1:-1])
        raise self.unexpected("a value")

    def peek(self) -> str | None:
        match = _TOKEN.match(self.text, self.at)
        return match[match.lastgroup] if match and match.lastgroup else None

    def take(self, kind: str, wanted: str | None = None) -> str:
        match = _TOKEN.match(self.text, self.at)
        if match is None or match.lastgroup != kind:
            raise self.unexpected(wanted or kind)
        self.at = match.end()
        return match[kind]

    def unexpected(self, wanted: str) -> InvalidRequest:
        found = repr(self.text[self.at :].lstrip()[:20]) if self.at < len(self.text) else "the end"
        return _wrong(f"expected {wanted} at character {self.at + 1}, found {found}")
