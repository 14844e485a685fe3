"""Assembles and starts the app: its layers, its lifespan and how it listens; no logic."""

from __future__ import annotations

import asyncio
import gc
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from functools import partial
from ipaddress import ip_address
from typing import Any

import uvicorn
from uvicorn.config import LOGGING_CONFIG

from veridical.middleware.assembly import Assembly
from veridical.middleware.auth import ClientKeys
from veridical.middleware.config import ServerSettings, Settings
from veridical.middleware.connection import Connection, ConnectionLimits
from veridical.middleware.deferring import Deferred
from veridical.middleware.draining import Draining, Server
from veridical.middleware.lifespan import Lifespan
from veridical.middleware.observing import logs
from veridical.middleware.passthrough import Passthrough
from veridical.middleware.reloading import Reread, reloading
from veridical.middleware.workers.parent import Parent
from veridical.middleware.workers.worker import Worker
from veridical.strategies.errors import ConfigError

#: Longer than clients and load balancers keep a connection: one that ends it is not just using it.
KEEP_ALIVE_S = 75


def create_app(settings: Settings, reread: Reread | None = None, parent: Parent | None = None) -> Any:
    """The ASGI application for these settings; with `reread`, SIGHUP asks that for others.

    Raises:
        ConfigError: the settings name something that is not there.
    """
    assembly = Assembly(settings, parent=parent)
    inner = Deferred(partial(_inside, assembly))

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        await assembly.open()
        try:
            async with reloading(assembly, reread), inner.soon():
                yield
        finally:
            await assembly.close()

    wrapped: Any = Passthrough(Lifespan(inner, lifespan), assembly, inner.made)
    if assembly.gate:
        wrapped = ClientKeys(wrapped, assembly.gate.directory)
    return assembly.observers.around(wrapped)


def _inside(assembly: Assembly) -> Any:
    """What only requests need that are not passed on: imported when it is made, not at the start."""
    with _lasting() if gc.get_freeze_count() else nullcontext():  # as `serve` has it, for the process's life
        from veridical.middleware.routes import routed

        assembly.prepare()
        return routed(assembly)


@contextmanager
def _lasting() -> Iterator[None]:
    """What is made meanwhile stays: no collection looks at it, now or later."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


async def check_roles(settings: Settings) -> None:
    """Look up the models that roles name, as far as the backends tell them now.

    Raises:
        ConfigError: a role names a model that no backend serves.
    """
    assembly = Assembly(settings)
    try:
        await assembly.check_roles()
    finally:
        await assembly.close()


def check_exposure(settings: Settings) -> None:
    """Refuse to listen where others can reach us, without keys, unless told to.

    Raises:
        ConfigError: says what can be done.
    """
    host = settings.server.host
    if settings.auth.required or settings.server.insecure or is_loopback(host):
        return
    raise ConfigError(
        f"On {host or 'all addresses'} everybody who reaches this machine could use the proxy and the keys "
        "of its backends. Require keys (auth.keys or auth.client_keys_env), or say --insecure."
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address; a name other than localhost may lead anywhere."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def serve(settings: Settings, reread: Reread | None = None, worker: Worker | None = None) -> None:
    """Listen and serve until a signal stops it; SIGHUP reads the settings again. A `worker` listens where its
    parent does.

    Raises:
        ConfigError: the settings name something that is not there, or would open the proxy to others
            without keys.
    """
    check_exposure(settings)
    logs.configure(settings.observability, settings.server.log_level)
    app = Draining(create_app(settings, reread, worker.parent if worker else None))
    if settings.roles:
        asyncio.run(check_roles(settings))
    raise_file_limit()
    gc.freeze()  # what start-up made stays: later collections need not look at it
    gc.set_threshold(50_000)  # a request's objects are many, and nearly all are gone without a collection
    gc.enable()
    config = listening(
        app,
        settings.server,
        host=settings.server.host,
        port=settings.server.port,
        log_level=settings.server.log_level,
        log_config=None if settings.observability.log_format == "json" else LOGGING_CONFIG,
        timeout_graceful_shutdown=math.ceil(settings.server.shutdown_s),
    )
    Server(app, config, settings.server.drain_s).run([worker.listener] if worker else None)


def listening(app: Any, settings: ServerSettings, **options: Any) -> uvicorn.Config:
    """How uvicorn serves the app: with bounds on what a connection may take."""
    limits = ConnectionLimits(
        settings.max_connections,
        settings.max_head_bytes,
        settings.receive_timeout_s,
        settings.send_timeout_s,
    )
    protocol: Any = partial(Connection, limits=limits)
    return uvicorn.Config(
        app,
        http=protocol,
        access_log=False,
        server_header=False,
        lifespan="on",
        ws="none",
        timeout_keep_alive=KEEP_ALIVE_S,
        **options,
    )


def raise_file_limit() -> None:
    """Let this process open as many files, and so connections, as the system lets it."""
    with suppress(ImportError, OSError, ValueError):  # not everywhere; then the limit stays as it is
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
