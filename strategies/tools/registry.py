"""Tools by name: ours in a table, others' by entry point (group `veridical.tools`)."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from functools import lru_cache
from importlib.metadata import EntryPoint

from veridical.strategies.errors import ConfigError, InvalidRequest, shown, suggestion
from veridical.strategies.plugins import clashing, imported, loaded, offered, origin
from veridical.strategies.tools.base import Interpreter, Scorer, Searcher, Tool

GROUP = "veridical.tools"
KINDS = (Searcher, Interpreter, Scorer)

#: The table of contents: name → where it lives.
BUILT_IN = {
    "search": "veridical.strategies.tools.search:Search",
    "python": "veridical.strategies.tools.python:PythonSandbox",
    "toxicity": "veridical.strategies.tools.toxicity:ToxicityClassifier",
}


@lru_cache(maxsize=1)
def plugins() -> dict[str, EntryPoint]:
    """Entry points of other distributions, by tool name; those that clash are left out."""
    return {name: points[0] for name, points in offered(GROUP).items() if name not in clashes()}


@lru_cache(maxsize=1)
def clashes() -> dict[str, str]:
    """What is wrong, by name, where a plug-in takes one of our names or two take the same. Ours
    stays ours; of two plug-ins neither is trusted."""
    return clashing(GROUP, "tool", BUILT_IN)


def tool_class(name: str, configured: Iterable[str] = ()) -> type[Tool]:
    """The class behind a name; `configured` are the names of tools that need none, for the error.

    Raises:
        InvalidRequest: there is none of that name; names those that there are.
        ConfigError: its distribution does not load, or the entry is no tool.
    """
    if name in BUILT_IN:
        found = imported(BUILT_IN[name])
    elif name in clashes():
        raise ConfigError(clashes()[name])
    elif name in plugins():
        found = loaded(plugins()[name], "tool")
    else:
        known = sorted({*BUILT_IN, *plugins(), *configured})
        words = f"This server has no tool {shown(name)}; it has: {', '.join(known)}."
        raise InvalidRequest(words + suggestion(name, known), param="strategy")
    if not (isinstance(found, type) and issubclass(found, KINDS)) or inspect.isabstract(found):
        raise ConfigError(f"{origin(plugins()[name])}: {name!r} is no Searcher, Interpreter or Scorer class.")
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
        words = f"{origin(plugins()[name])}: the tool {name!r} cannot be made ({type(error).__name__})."
        raise ConfigError(words) from error
