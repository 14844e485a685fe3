"""What every part of the configuration is."""

from __future__ import annotations

import pydantic


class Section(pydantic.BaseModel):
    """A part of the configuration: frozen, and strict about its keys. Its validator is built when it is first
    used, which for most parts is never: the whole has one for all."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, defer_build=True)
