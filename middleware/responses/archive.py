"""Kept responses: what a later request continues, looks at, or deletes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

import orjson

from veridical.middleware.auth import key_of
from veridical.middleware.responding import Scope
from veridical.middleware.responses.items import Item
from veridical.middleware.responses.request import ResponsesBody
from veridical.middleware.responses.store import ResponseStore
from veridical.strategies.errors import InvalidRequest, NotFound, UnsupportedParameter, shown

#: Ids of responses that this proxy made begin so, those of their items hold it.
MARK = "vrd"


def stem(request_id: str) -> str:
    """What the ids of a request's response and items share."""
    return f"{MARK}{request_id}"


def is_ours(response_id: str | None) -> bool:
    """Whether a response's id was made here, and not by a backend."""
    return response_id is not None and response_id.startswith(f"resp_{MARK}")


class PreviousResponseNotFound(InvalidRequest):
    """What a request continues is not kept, or not this client's: 400, as OpenAI has it."""

    code = "previous_response_not_found"


@dataclass(frozen=True, slots=True)
class Kept:
    """A response, its request's own items, and the items of the conversation before them."""

    response: Mapping[str, Any]
    input: Sequence[Item]
    context: Sequence[Item]

    @property
    def conversation(self) -> list[Item]:
        """All items up to the end of this response."""
        return [*self.context, *self.input, *self.response["output"]]


@dataclass(frozen=True, slots=True)
class Archive:
    """The store as one client sees it: its own responses only. `owner` is that client."""

    store: ResponseStore
    owner: str

    async def find(self, response_id: str, param: str | None = None) -> Kept:
        """A kept response; `param` is the field that names it, where a request continues it.

        Raises:
            NotFound: there is none of this client's, or it is kept no longer.
            PreviousResponseNotFound: the same, of a request that would continue it.
        """
        raw = await self.store.get(self._key(response_id)) if is_ours(response_id) else None
        if raw is None and param:
            raise PreviousResponseNotFound(f"No response {shown(response_id)} is kept here.", param=param)
        if raw is None:
            raise NotFound("response", response_id, ())
        return Kept(**orjson.loads(raw))

    async def keep(self, kept: Kept) -> bool:
        """Keep a response; says whether there was room."""
        value = orjson.dumps({"response": kept.response, "input": kept.input, "context": kept.context})
        return await self.store.put(self._key(kept.response["id"]), value)

    async def delete(self, response_id: str) -> dict[str, Any]:
        """Forget a response.

        Raises:
            NotFound: there is none of this client's.
        """
        if not is_ours(response_id) or not await self.store.delete(self._key(response_id)):
            raise NotFound("response", response_id, ())
        return {"id": response_id, "object": "response", "deleted": True}

    async def conversation(self, request: ResponsesBody) -> tuple[list[Item], list[Item]]:
        """The items before a request's own, and its own; references among these are looked up.

        Raises:
            PreviousResponseNotFound: a response that it refers to is not kept.
            InvalidRequest: its input has the wrong shape.
        """
        history: list[Item] = []
        if request.previous is not None:
            history = (await self.find(request.previous, "previous_response_id")).conversation
        items = [
            await self._resolved(item, f"input[{index}].id") if item["type"] == "item_reference" else item
            for index, item in enumerate(request.items())
        ]
        return history, items

    async def _resolved(self, item: Item, path: str) -> Item:
        """The item that a reference names: its id tells its response's."""
        name = str(item.get("id"))
        prefix, _, rest = name.partition(f"_{MARK}")
        if prefix and rest:
            kept = await self.find(f"resp_{MARK}{rest.partition('_')[0]}", path)
            for found in (*kept.input, *kept.response["output"]):
                if found.get("id") == name:
                    return dict(found)
        raise UnsupportedParameter(
            "Only items of responses that are kept here can be referred to.", param=path
        )

    def _key(self, response_id: str) -> str:
        return f"{self.owner}/{response_id}"


def owner_of(scope: Scope) -> str:
    """The client that a request is from: its key's id; where none is needed, a digest of what it shows."""
    if key := key_of(scope):
        return key.id
    shown: bytes = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
    return hashlib.sha256(shown).hexdigest()[:32] if shown else ""


def page(kept: Kept, query: bytes) -> dict[str, Any]:
    """The page of a response's input items that a query asks for: `limit`, `order`, `after`.

    Raises:
        InvalidRequest: a parameter does not fit; names it.
    """
    asked = {name: values[-1] for name, values in parse_qs(query.decode("latin-1")).items()}
    limit, order = asked.get("limit", "20"), asked.get("order", "desc")
    if not limit.isascii() or not limit.isdigit() or not 1 <= int(limit) <= 100:
        raise InvalidRequest("'limit' must be between 1 and 100.", param="limit")
    if order not in ("asc", "desc"):
        raise InvalidRequest("'order' must be 'asc' or 'desc'.", param="order")
    items = list(kept.input) if order == "asc" else list(reversed(kept.input))
    if after := asked.get("after"):
        ids = [item.get("id") for item in items]
        if after not in ids:
            raise InvalidRequest("'after' is no item of this response.", param="after")
        items = items[ids.index(after) + 1 :]
    shown = items[: int(limit)]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": len(items) > len(shown),
    }
