"""Settings that change while the proxy runs: read again on SIGHUP, taken over as a whole or not at all."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from veridical.middleware.assembly import Assembly
from veridical.middleware.config import Settings
from veridical.middleware.errors import log
from veridical.middleware.retiring import ended
from veridical.strategies.errors import VeridicalError

#: What changes at once. Everything else is for as long as the process lives.
CHANGEABLE = frozenset(
    {"default_strategy", "advertise", "passthrough", "budget", "roles", "pipelines", "backends", "models"}
    | {"retrievers", "domains", "tools"}
)
CHANGEABLE_OF_SERVER = frozenset({"max_body_bytes", "heartbeat_s", "max_n"})

Reread = Callable[[], Settings]


@asynccontextmanager
async def reloading(assembly: Assembly, reread: Reread | None) -> AsyncIterator[None]:
    """While this lasts, SIGHUP makes the proxy read its configuration again."""
    if reread is None or not hasattr(signal, "SIGHUP"):
        yield
        return
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, asked.set)
    task = asyncio.create_task(_reload_on(assembly, reread, asked))
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        await ended([task])


async def _reload_on(assembly: Assembly, reread: Reread, asked: asyncio.Event) -> None:
    while True:
        await asked.wait()
        asked.clear()
        await reload(assembly, reread)


async def reload(assembly: Assembly, reread: Reread) -> bool:
    """Read the settings again and serve with them; whether that could be done. The log says what was wrong
    with them, and what of them waits for a restart."""
    try:
        wanted = reread()
        settings, waiting = changed(assembly.settings, wanted)
        fresh = Assembly(settings, assembly)
        if settings.roles:
            await fresh.check_roles()
    except VeridicalError as error:
        log.error("the configuration stays as it was: %s", error.message)
        return False
    except Exception as error:  # noqa: BLE001 - whatever a file brings about, the proxy goes on
        log.error("the configuration stays as it was: %s", type(error).__name__)
        return False
    await assembly.adopt(fresh)
    for key in waiting:
        log.warning("%s has changed: that needs a restart", key)
    log.info("the configuration has been read again")
    return True


def changed(old: Settings, wanted: Settings) -> tuple[Settings, list[str]]:
    """The old settings with those of the wanted that can change now, and the keys of those that cannot."""
    server = {name: getattr(wanted.server, name) for name in CHANGEABLE_OF_SERVER}
    settings = old.model_copy(
        update={
            **{name: getattr(wanted, name) for name in CHANGEABLE},
            "server": old.server.model_copy(update=server),
        }
    )
    waiting = [
        f"{section}.{key}" if section != key else section
        for section in Settings.model_fields
        for key in _keys_that_differ(getattr(settings, section), getattr(wanted, section), section)
    ]
    return settings, waiting


def _keys_that_differ(mine: object, wanted: object, section: str) -> list[str]:
    if mine == wanted:
        return []
    names = getattr(type(mine), "model_fields", {})
    return [name for name in names if getattr(mine, name) != getattr(wanted, name)] or [section]
