"""What every part of the configuration is."""

from __future__ import annotations

import pydantic


class Section(pydantic.BaseModel):
    """A part of the configuration: frozen, and strict about its keys."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, defer_build=True)
