"""From configured tools to live ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import aiohttp

from veridical.middleware.config import (
    PythonToolSettings,
    ScoringToolSettings,
    ToolSettings,
    ToxicityToolSettings,
)
from veridical.middleware.scoring import ScoringService
from veridical.strategies.tools.base import Tool


def configured_tools(
    settings: Mapping[str, ToolSettings],
    session: Callable[[], aiohttp.ClientSession],
    secret: Callable[[str], str],
) -> dict[str, Tool]:
    """The configured tools by name; `session` gives the connection pool once a request needs it.

    Raises:
        ConfigError: what a tool needs is not installed, or its key is not set.
    """
    return {name: _made(each, session, secret) for name, each in settings.items()}


def _made(
    settings: ToolSettings, session: Callable[[], aiohttp.ClientSession], secret: Callable[[str], str]
) -> Tool:
    match settings:
        case PythonToolSettings():
            from veridical.strategies.tools.python import PythonSandbox

            return PythonSandbox(
                settings.seconds, settings.memory_mb, settings.output_chars, settings.processes
            )
        case ToxicityToolSettings():
            from veridical.strategies.tools.toxicity import ToxicityClassifier

            return ToxicityClassifier(settings.threshold)
        case ScoringToolSettings():
            key = secret(settings.api_key_env) if settings.api_key_env else None
            return ScoringService(
                session, settings.url, settings.api, key, settings.threshold, settings.timeout_s
            )
