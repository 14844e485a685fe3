"""What lies in the cache: a line of JSON that says what and since when, and behind it the thing itself."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from hashlib import blake2b
from typing import Any

import orjson

from veridical.strategies.reply import Ending
from veridical.strategies.types import Answer, Delta, Usage

#: A parsed answer, and a relayed body as it came.
ITEMS, BYTES = "items", "bytes"


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing kept: of which kind, since when (Unix seconds), with which Content-Type if it is a body."""

    kind: str
    at: float
    data: bytes
    content_type: str = ""

    def packed(self) -> bytes:
        """As bytes for a store, with a checksum."""
        head = {"kind": self.kind, "at": self.at, "content_type": self.content_type, "sum": _sum(self.data)}
        return orjson.dumps(head) + b"\n" + self.data


def unpacked(raw: bytes) -> Entry:
    """An entry from a store's bytes.

    Raises:
        ValueError: they are none, or have been damaged.
    """
    head, _, data = raw.partition(b"\n")
    match orjson.loads(head):
        case {"kind": str(kind), "at": float(at), "content_type": str(content_type), "sum": told} if (
            told == _sum(data)
        ):
            return Entry(kind, at, data, content_type)
    raise ValueError("no entry of the cache")


def _sum(data: bytes) -> str:
    return blake2b(data, digest_size=16).hexdigest()


def entry_of(items: Sequence[Delta | Ending]) -> Entry:
    """A parsed answer, delta by delta.

    Raises:
        TypeError: a plug-in's backend put something into it that is no JSON.
    """
    return Entry(ITEMS, time.time(), orjson.dumps([_packed(item) for item in items], default=_plain))


def items_of(data: bytes) -> list[Delta | Ending]:
    """The same answer again.

    Raises:
        ValueError: the bytes hold none.
    """
    try:
        return [_unpacked(item) for item in orjson.loads(data)]
    except (TypeError, KeyError) as wrong:
        raise ValueError("no answer") from wrong


def _packed(item: Delta | Ending) -> Any:
    if isinstance(item, Delta):
        return [item.fields, item.finish_reason, item.logprobs]
    others = [[other.message, other.finish_reason, other.logprobs] for other in item.others]
    return {"usage": item.usage and astuple(item.usage), "envelope": item.envelope, "others": others}


def _unpacked(item: Any) -> Delta | Ending:
    if isinstance(item, list):
        return Delta(*item)
    others = tuple(Answer(*other) for other in item["others"])
    return Ending(item["usage"] and Usage(*item["usage"]), item["envelope"], others)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is no JSON")
