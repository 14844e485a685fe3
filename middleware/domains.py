"""From the configured fields of knowledge to what strategies choose among."""

from __future__ import annotations

from veridical.middleware.config import Settings
from veridical.middleware.retriever_config import WikidataSettings
from veridical.strategies.base import Domain
from veridical.strategies.errors import ConfigError, suggestion


def domains(settings: Settings) -> dict[str, Domain]:
    """The configured fields of knowledge; where there are none, one that has every source that is not
    made of others.

    Raises:
        ConfigError: a domain names a source that is not configured.
    """
    language = {
        name: each.queries if isinstance(each, WikidataSettings) else "text"
        for name, each in settings.retrievers.items()
    }
    if not settings.domains:
        simple = {name: language[name] for name, each in settings.retrievers.items() if not each.parts}
        return {"general": Domain("knowledge of any kind", simple)} if simple else {}
    for name, domain in settings.domains.items():
        for source in domain.sources:
            if source not in language:
                raise ConfigError(
                    f"domains.{name}.sources: there is no retriever {source!r}.{suggestion(source, language)}"
                )
    return {
        name: Domain(domain.description, {source: language[source] for source in domain.sources})
        for name, domain in settings.domains.items()
    }
