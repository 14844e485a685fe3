"""Tools by name: ours in a table, others' by entry point (group `veridical.tools`)."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

from veridical.strategies.errors import ConfigError, InvalidRequest, shown, suggestion
from veridical.strategies.plugins import Catalogue, origin
from veridical.strategies.tools.base import Interpreter, Scorer, Searcher, Tool

KINDS = (Searcher, Interpreter, Scorer)

#: The table of contents: name → where it lives.
BUILT_IN = {
    "search": "veridical.strategies.tools.search:Search",
    "python": "veridical.strategies.tools.python:PythonSandbox",
    "toxicity": "veridical.strategies.tools.toxicity:ToxicityClassifier",
}


CATALOGUE = Catalogue("veridical.tools", "tool", BUILT_IN)


def tool_class(name: str, configured: Iterable[str] = ()) -> type[Tool]:
    """The class behind a name; `configured` are the names of tools that need none, for the error.

    Raises:
        InvalidRequest: there is none of that name; names those that there are.
        ConfigError: its distribution does not load, or the entry is no tool.
    """
    found = CATALOGUE.find(name)
    if found is None:
        known = sorted({*CATALOGUE.names, *configured})
        words = f"This server has no tool {shown(name)}; it has: {', '.join(known)}."
        raise InvalidRequest(words + suggestion(name, known), param="strategy")
    if not (isinstance(found, type) and issubclass(found, KINDS)) or inspect.isabstract(found):
        raise ConfigError(
            f"{origin(CATALOGUE.plugins[name])}: {name!r} is no Searcher, Interpreter or Scorer class."
        )
    return found


def make_tool(name: str, configured: Iterable[str] = ()) -> Tool:
    """A tool of that name with its defaults.

    Raises:
        InvalidRequest: there is none of that name, or what it needs is not installed.
        ConfigError: its distribution does not load, or the entry is no tool.
    """
    cls = tool_class(name, configured)
    try:
        return cls()
    except ConfigError as missing:
        raise InvalidRequest(missing.message, param="strategy") from None
    except Exception as error:
        words = (
            f"{origin(CATALOGUE.plugins[name])}: the tool {name!r} cannot be made ({type(error).__name__})."
        )
        raise ConfigError(words) from error
