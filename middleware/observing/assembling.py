"""The observers that the settings want, opened and closed with the server."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from veridical.middleware.access.gate import Gate
from veridical.middleware.config import Settings
from veridical.middleware.observing import logs
from veridical.middleware.observing.content import Told
from veridical.middleware.observing.observed import Observed, Observer
from veridical.middleware.observing.scraping import Scraping
from veridical.strategies.errors import ConfigError

if TYPE_CHECKING:
    from veridical.middleware.observing.metrics import Metrics
    from veridical.middleware.observing.tracing import Tracing


class Observers:
    """Metrics, log and traces, each only where it is on: what is off is not even imported.

    Raises:
        ConfigError: an extra is not installed, or the variable of the scrapers' key is not set.
    """

    def __init__(self, settings: Settings, gate: Gate | None, pipes: Iterable[str]) -> None:
        self._settings = settings.observability
        self.metrics: Metrics | None = None
        self.tracing: Tracing | None = None
        if self._settings.metrics != "off":
            from veridical.middleware.observing.metrics import Metrics

            self.metrics = Metrics(pipes)
            self.scraping = Scraping(self._settings, gate.directory if gate else None)
        if self._settings.traces:
            try:
                from veridical.middleware.observing.tracing import Tracing
            except ImportError:
                words = "This needs the extra 'otel': pip install 'veridical[otel]'."
                raise ConfigError(words) from None
            self.tracing = Tracing(self._settings)

    def around(self, app: Any) -> Any:
        """The app with its requests observed."""
        observers: list[Observer] = []
        if self.metrics:
            observers.append(self.metrics.ended)
        if self._settings.access_log:
            observers.append(logs.write)
        inner = Told(app) if self._settings.log_content else app
        began = self.metrics.began if self.metrics else None
        return Observed(inner, observers, began, self.tracing)

    async def open(self) -> None:
        """Begin what runs in the background."""
        if self.metrics:
            await self.metrics.open()

    async def close(self) -> None:
        """Send off what is not yet sent."""
        if self.metrics:
            await self.metrics.close()
        if self.tracing:
            await self.tracing.close()
