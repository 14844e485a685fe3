"""The keys that are known now: in memory, and as new as the last look at the database."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress

from veridical.middleware.access.key_store import KeyStore
from veridical.middleware.access.keys import ApiKey, digest_of, id_in
from veridical.middleware.errors import StateUnavailable, Unauthorized, log

#: An unknown key makes us look for new ones, but not more often than this, in seconds.
SPACING_S = 0.1
NEEDED = "A valid API key is required: 'Authorization: Bearer KEY'."
_NOBODY = ApiKey("", "", digest_of(b""))


class Directory:
    """Finds the key of a request. `fixed` are the environment's; `store` holds those of `veridical keys`.

    A revocation holds here at the latest `refresh_s` seconds after it is in the database, a new key at
    once. While the database is down the keys known last stay valid: nobody can revoke one then, either.
    """

    def __init__(
        self, fixed: Sequence[ApiKey], store: KeyStore | None = None, refresh_s: float = 2.0
    ) -> None:
        self._fixed, self._store, self._refresh_s = fixed, store, refresh_s
        self._by_id: dict[str, ApiKey] = {}
        self._mark: tuple[int, int] | None = None
        self._read_at = float("-inf")
        self._stale = False
        self._reading = asyncio.Lock()
        self._refreshing: asyncio.Task[None] | None = None

    @property
    def keys(self) -> Sequence[ApiKey]:
        """Every key that is known now, revoked ones too."""
        return (*self._fixed, *self._by_id.values())

    async def open(self) -> None:
        """Read the keys, and look for changes from now on."""
        if self._store is None:
            return
        await self._read(self._store)
        if not any(key.fault(time.time()) is None for key in self.keys):
            log.warning("there is no valid API key yet: make one with `veridical keys create`")
        self._refreshing = asyncio.create_task(self._refresh(self._store))

    async def close(self) -> None:
        """Stop looking for changes."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            with suppress(asyncio.CancelledError):
                await self._refreshing

    async def find(self, authorization: bytes) -> ApiKey:
        """The key in an `Authorization` header.

        Raises:
            Unauthorized: there is none, or it opens nothing; says why only to who knows the secret.
            StateUnavailable: it may be new, and the database cannot tell now.
        """
        scheme, _, text = authorization.partition(b" ")
        if scheme.lower() != b"bearer":
            raise Unauthorized(NEEDED)
        text = text.strip()
        key = self._known(text)
        if key is None and self._store is not None and id_in(text) is not None:
            await self._look_again(self._store)
            key = self._known(text)
            if key is None and self._stale:
                raise StateUnavailable("Keys cannot be checked at the moment.")
        if key is None:
            raise Unauthorized(NEEDED)
        if why := key.fault(time.time()):
            raise Unauthorized(why)
        return key

    def _known(self, text: bytes) -> ApiKey | None:
        """The key with this text. The digests are compared in constant time, and the environment's all of
        them, so that timing tells nothing."""
        digest = digest_of(text)
        kept = self._by_id.get(id_in(text) or "", _NOBODY)
        matches = [key for key in (*self._fixed, kept) if key.is_key(digest)]
        return matches[0] if matches and matches[0] is not _NOBODY else None

    async def _look_again(self, store: KeyStore) -> None:
        """Read the keys anew for one that came in now; all that wait share one reading."""
        arrived = time.monotonic()
        async with self._reading:
            if self._read_at > arrived:
                return
            await asyncio.sleep(max(0.0, self._read_at + SPACING_S - time.monotonic()))
            await self._reread(store)

    async def _refresh(self, store: KeyStore) -> None:
        while True:
            await asyncio.sleep(self._refresh_s)
            async with self._reading:
                await self._reread(store)

    async def _reread(self, store: KeyStore) -> None:
        try:
            await self._read(store)
        except StateUnavailable as error:
            if not self._stale:
                log.warning("the keys cannot be read (%s): those known last stay valid", error.message)
            self._stale = True
            return
        if self._stale:
            log.warning("the keys can be read again")
        self._stale = False

    async def _read(self, store: KeyStore) -> None:
        self._read_at = time.monotonic()
        mark = await store.mark()
        if mark != self._mark:
            self._by_id = {key.id: key for key in await store.all()}
            self._mark = mark
