"""What can be configured of balancing: a backend's share, and models of our own over several backends."""

from __future__ import annotations

from typing import Literal, Self

import pydantic
from pydantic import Field

from veridical.middleware.section import Section

#: A server is set aside after so many failures in a row, where another can be asked instead.
USUAL_FAILURES = 5

Balance = Literal["least_busy", "weighted"]


class CapacitySection(Section):
    """How many requests each server of a backend gets, and when it gets none."""

    max_concurrency: int | None = Field(
        None, ge=1, description="Requests that one server works on at once; others wait their turn."
    )
    max_queue: int = Field(256, ge=0, description="Requests that may wait for one server.")
    queue_wait_s: float = Field(60.0, gt=0, description="Seconds that a request may wait for its turn.")
    breaker_failures: int | None = Field(
        None, ge=0, description="Failures in a row that set a server aside; 0 = none do; none = 5 where "
        "there is another to ask."
    )  # fmt: skip
    breaker_open_s: float = Field(10.0, gt=0, description="Seconds for which it is set aside.")

    @property
    def limits_capacity(self) -> bool:
        """Whether any of this is set."""
        return bool(self.model_fields_set & CapacitySection.model_fields.keys())


class EngineSection(CapacitySection):
    """What holds for an engine that the proxy runs itself."""

    read_timeout_s: float = Field(
        300.0, gt=0, description="Seconds without a byte before a call is given up."
    )
    hang_timeouts: int = Field(
        3, ge=0, description="Calls in a row that ended so, after which the engine is restarted; 0 = never."
    )


class ModelSettings(Section):
    """A model of our own: other backends' models, among which requests are shared out."""

    targets: tuple[str, ...] = Field(min_length=1, description="Models to share out among: BACKEND/MODEL.")
    weights: tuple[float, ...] = Field((), description="One number for each; none = all equal.")
    fallback: tuple[str, ...] = Field(
        (), description="Models to ask, in this order, where no target answers: BACKEND/MODEL."
    )
    balance: Balance = Field("least_busy", description="How requests are shared out.")
    affinity: bool = Field(True, description="Whether the calls of one request keep to one server.")

    @pydantic.model_validator(mode="after")
    def _is_consistent(self) -> Self:
        check_weights(self.weights, len(self.targets))
        return self


def check_weights(weights: tuple[float, ...], count: int) -> None:
    """Refuse weights that are not one positive number for each.

    Raises:
        ValueError: says what is wrong with them.
    """
    if weights and len(weights) != count:
        raise ValueError(f"'weights' has {len(weights)} numbers for {count}")
    if any(not 0 < weight < float("inf") for weight in weights):
        raise ValueError("'weights' must be positive")
