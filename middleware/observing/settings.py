"""What is observed, and who may see it."""

from __future__ import annotations

from typing import Literal

import pydantic
from pydantic import Field

from veridical.middleware.section import Section


class ObservabilitySettings(Section):
    """Metrics, logs and traces; docs/observability.md tells what is in them."""

    metrics: Literal["off", "protected", "open"] = Field(
        "protected",
        description="/metrics: off, for an admin's key (or anybody, where no keys are needed), or open.",
    )
    metrics_key_env: str | None = Field(
        None, description="Environment variable with a key that opens /metrics and nothing else."
    )
    access_log: bool = Field(True, description="Log one line for each request.")
    log_format: Literal["text", "json"] = Field("text", description="Log lines as text or as JSON.")
    log_content: bool = Field(False, description="Log what clients ask and get, too; never a key.")
    traces: bool = Field(False, description="Export OpenTelemetry traces by OTLP (extra `otel`).")
    traces_endpoint: str | None = Field(
        None, description="URL of the collector's /v1/traces; none = as OTEL_EXPORTER_OTLP_* say."
    )
    traces_sample: float = Field(1.0, ge=0, le=1, description="Share of the traces that begin here.")

    @pydantic.field_validator("traces_endpoint")
    @classmethod
    def _is_url(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        return value
