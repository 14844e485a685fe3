"""From configured retrievers to what strategies call: langchain documents become evidence, their
failures ours. A retriever is opened on its first use, so a server that needs none pays for none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from veridical.middleware.config import (
    IndexSettings,
    LangChainRetrieverSettings,
    PluginRetrieverSettings,
    RetrieverSettings,
    Settings,
    WebSettings,
    WikidataSettings,
    WikipediaSettings,
)
from veridical.strategies.base import Domain
from veridical.strategies.errors import ConfigError, RetrievalFailed, suggestion
from veridical.strategies.types import Evidence

if TYPE_CHECKING:
    from langchain_core.retrievers import BaseRetriever


@dataclass
class Source:
    """A named source of evidence: `make` opens its retriever, once, in a worker thread."""

    name: str
    make: Callable[[], BaseRetriever]
    timeout_s: float = 20.0
    _opened: BaseRetriever | None = field(default=None, repr=False)
    _opening: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)

    async def __call__(self, query: str, k: int) -> list[Evidence]:
        """The `k` passages that fit `query` best.

        Raises:
            RetrievalFailed: the source failed or did not answer in time; says which, not why in full.
        """
        retriever = await self.open()
        try:
            async with asyncio.timeout(self.timeout_s):
                found = await retriever.ainvoke(query, k=k)
        except TimeoutError:
            raise RetrievalFailed(
                f"The source {self.name!r} did not answer in {self.timeout_s:g} s."
            ) from None
        except Exception as error:
            # Any third party's retriever may stand here, and it may raise anything.
            raise RetrievalFailed(f"The source {self.name!r} failed ({type(error).__name__}).") from error
        return [evidence(document, self.name) for document in found[:k]]

    async def open(self) -> BaseRetriever:
        """The retriever, opened now if it was not.

        Raises:
            RetrievalFailed: it cannot be opened.
        """
        async with self._opening:
            if self._opened is None:
                try:
                    self._opened = await asyncio.to_thread(self.make)
                except Exception as error:
                    words = getattr(error, "message", type(error).__name__)
                    raise RetrievalFailed(f"The source {self.name!r} cannot be opened: {words}") from error
        return self._opened


def evidence(document: Any, source: str) -> Evidence:
    """A langchain document as evidence; a third party's may lack any of our metadata."""
    metadata = document.metadata
    score = metadata.get("score")
    return Evidence(
        str(metadata.get("source") or document.id or hash(document.page_content)),
        document.page_content,
        str(metadata.get("title") or ""),
        str(metadata.get("url") or ""),
        float(score) if isinstance(score, int | float) else None,
        str(metadata.get("retriever") or source),
    )


def sources(settings: Mapping[str, RetrieverSettings], secret: Callable[[str], str]) -> dict[str, Source]:
    """The configured sources by name; the first is also `default`. None is opened yet."""
    named = {name: Source(name, _maker(each, secret), each.timeout_s) for name, each in settings.items()}
    if named and "default" not in named:
        named["default"] = next(iter(named.values()))
    return named


def domains(settings: Settings) -> dict[str, Domain]:
    """The configured fields of knowledge; where there are none, one that has every source.

    Raises:
        ConfigError: a domain names a source that is not configured.
    """
    language = {
        name: each.queries if isinstance(each, WikidataSettings) else "text"
        for name, each in settings.retrievers.items()
    }
    if not settings.domains:
        return {"general": Domain("knowledge of any kind", language)} if language else {}
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


def _maker(settings: RetrieverSettings, secret: Callable[[str], str]) -> Callable[[], BaseRetriever]:
    """What opens a retriever; its module is imported then, not now. Secrets are read now."""
    key: SecretStr | None = None
    if isinstance(settings, WebSettings) and settings.api_key_env:
        key = SecretStr(secret(settings.api_key_env))

    def make() -> BaseRetriever:
        match settings:
            case IndexSettings():
                from veridical.retrievers.index import open_retriever

                return open_retriever(settings.path)
            case WikipediaSettings():
                from veridical.retrievers.wikipedia import WikipediaRetriever

                agent = {"user_agent": settings.user_agent} if settings.user_agent else {}
                return WikipediaRetriever(language=settings.language, api_url=settings.api_url, **agent)
            case WikidataSettings():
                from veridical.retrievers.wikidata import WikidataRetriever

                return WikidataRetriever(language=settings.language, sparql_url=settings.sparql_url)
            case WebSettings():
                from veridical.retrievers.web import WebRetriever

                return WebRetriever(url=settings.url, api=settings.api, api_key=key)
            case LangChainRetrieverSettings():
                from veridical.retrievers.langchain import LangChainRetriever

                return LangChainRetriever.load(settings.retriever_class, settings.kwargs, keys=settings.keys)
            case PluginRetrieverSettings():
                from veridical.retrievers.registry import retriever_class

                return retriever_class(settings.retriever)(**settings.kwargs)

    return make
