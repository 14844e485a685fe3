"""The configuration of the cache."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from veridical.middleware.section import Section


class CacheSettings(Section):
    """Where backends' answers are kept for equal calls, and which."""

    kind: Literal["off", "memory", "disk", "redis"] = Field("off", description="Where answers are kept.")
    ttl_s: float = Field(86_400.0, gt=0, description="Seconds that an answer is kept.")
    max_bytes: int = Field(
        256_000_000, ge=0, description="Most that is kept in memory or on disk; Redis has its own limit."
    )
    path: str = Field("~/.cache/veridical/answers.sqlite", description="SQLite file of kind disk.")
    redis_url_env: str | None = Field(
        None, description="Environment variable with the redis:// URL of kind redis."
    )
    sampled: bool = Field(False, description="Keep answers drawn at a temperature without a seed, too.")
