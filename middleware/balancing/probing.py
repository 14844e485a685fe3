"""Looks whether servers answer, so that one that is down is set aside before a request finds it out, and
comes back as soon as it is up."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from veridical.middleware.balancing.replica import Replica
from veridical.strategies.errors import BackendError, BackendFailed, BackendTimeout

#: Seconds that a server gets to answer a look.
LOOK_TIMEOUT_S = 5.0


async def probe_on(replicas: Iterable[Replica], every_s: float, path: str) -> None:
    """Look at each of them again and again."""
    async with asyncio.TaskGroup() as group:
        for replica in replicas:
            group.create_task(_probe_one(replica, every_s, path))


async def _probe_one(replica: Replica, every_s: float, path: str) -> None:
    while True:
        replica.probed(await look(replica, path))
        await asyncio.sleep(every_s)


async def look(replica: Replica, path: str) -> BackendError | None:
    """What is wrong with a server; whatever it answers below 500, it is up."""
    assert replica.http is not None  # noqa: S101 - only such backends have the setting
    try:
        async with asyncio.timeout(LOOK_TIMEOUT_S):
            response = await replica.http.send("GET", path, None, {})
    except TimeoutError:
        return BackendTimeout("The backend did not answer a probe in time.")
    except BackendError as error:
        return error
    response.close()
    return (
        BackendFailed(f"The backend answered a probe with {response.status}.")
        if response.status >= 500
        else None
    )
