"""How deep JSON may nest: what is read must still be written when it stands inside an object of ours."""

from __future__ import annotations

from typing import Any

import orjson

#: Levels that an answer of ours may put around what it holds: orjson writes 254 in all.
_AROUND = 16


def too_deep(found: Any, raw: bytes) -> bool:
    """Whether `found`, which was read from `raw`, is too deep (or holds a number too large) to be written."""
    if raw.count(b"[") + raw.count(b"{") < 200:  # it has not that many levels
        return False
    for _ in range(_AROUND):
        found = [found]
    try:
        orjson.dumps(found)
    except orjson.JSONEncodeError:
        return True
    return False
