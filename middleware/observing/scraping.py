"""Who may read /metrics."""

from __future__ import annotations

import hmac

from veridical.middleware.access.directory import NEEDED, Directory
from veridical.middleware.access.keys import digest_of
from veridical.middleware.config import secret
from veridical.middleware.errors import NotAllowed, Unauthorized
from veridical.middleware.observing.settings import ObservabilitySettings


class Scraping:
    """Where clients need keys, scrapers do, from whichever address: behind a balancer all seem local.

    Raises:
        ConfigError: the variable of the scrapers' key is not set.
    """

    def __init__(self, settings: ObservabilitySettings, directory: Directory | None) -> None:
        variable = settings.metrics_key_env
        self._digest = digest_of(secret(variable).encode()) if variable else None
        self._directory = directory
        self._open = settings.metrics == "open" or (directory is None and self._digest is None)

    async def admit(self, authorization: bytes) -> None:
        """Let a scraper in.

        Raises:
            Unauthorized: it has no valid key.
            NotAllowed: it has a client's.
        """
        if self._open:
            return
        scheme, _, text = authorization.partition(b" ")
        given = digest_of(text.strip()) if scheme.lower() == b"bearer" else ""
        if self._digest and hmac.compare_digest(self._digest, given):
            return
        if self._directory is None:
            raise Unauthorized(NEEDED)
        if not (await self._directory.find(authorization)).admin:
            raise NotAllowed("Metrics are for an admin's key, or that of observability.metrics_key_env.")
