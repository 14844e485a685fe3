"""Which database, from the settings."""

from __future__ import annotations

import os
from pathlib import Path

from veridical.middleware.config import Settings, StateSettings, secret
from veridical.middleware.state.database import Database
from veridical.strategies.errors import ConfigError


def database_for(settings: Settings) -> Database | None:
    """The database that a server with these settings needs, not yet open; None where it needs none.

    Raises:
        ConfigError: see `database_of`.
    """
    needed = settings.auth.keys or settings.keeps_responses_in_database
    return database_of(settings.state) if needed else None


def database_of(settings: StateSettings) -> Database:
    """The database that the settings name, not yet open.

    Raises:
        ConfigError: its variable is not set or holds no such URL, or the extra is not installed.
    """
    if settings.database_url_env is None:
        from veridical.middleware.state.sqlite import SQLite

        return SQLite(Path(os.path.expandvars(settings.path)).expanduser())
    url = url_in(settings.database_url_env, ("postgresql://", "postgres://"))
    try:
        from veridical.middleware.state.postgres import PostgreSQL
    except ImportError:
        raise not_installed("postgres") from None
    return PostgreSQL(url)


def url_in(variable: str, schemes: tuple[str, ...]) -> str:
    """The URL in an environment variable.

    Raises:
        ConfigError: it is not set, or is no such URL.
    """
    url = secret(variable)
    if not url.startswith(schemes):
        raise ConfigError(f"{variable} must hold a URL that begins with {' or '.join(schemes)}.")
    return url


def not_installed(extra: str) -> ConfigError:
    """The error of a setting whose extra is not there."""
    return ConfigError(f"This needs the extra {extra!r}: pip install 'veridical[{extra}]'.")
