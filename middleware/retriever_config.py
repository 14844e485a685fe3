"""The sections of the configuration that say where evidence comes from: one class per kind of source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import Field

from veridical.middleware.section import Section

CACHE_FILE = "~/.cache/veridical/retrieval.sqlite"
_DAY_S = 24 * 3600.0
_LANGUAGE = r"^[a-z][a-z-]{1,15}$"
_URL = r"^https?://\S+$"
#: The `wikipedia` package follows the address as it stands, so plain http is for this machine only.
_WIKI_URL = r"^(https://\S+|http://(127\.0\.0\.1|localhost|\[::1\])[:/]\S*)?$"


class RetrieverSection(Section):
    """What all sources have."""

    timeout_s: float = Field(20.0, gt=0, description="Seconds that a search may take.")

    @property
    def parts(self) -> tuple[str, ...]:
        """The other sources that this one is made of."""
        return ()


class CachedSection(RetrieverSection):
    """A source whose answers can be kept on disk."""

    cache: bool = Field(True, description="Whether its answers are kept on disk.")
    cache_ttl_s: float = Field(7 * _DAY_S, gt=0, description="Seconds that an answer is kept.")
    cache_file: str = Field(CACHE_FILE, description="File for them; sources and servers may share one.")


class PublicSection(CachedSection):
    """A service on the net that wants to know who asks."""

    user_agent: str | None = Field(None, description="How we present ourselves, with a contact.")


class IndexSettings(RetrieverSection):
    """A local index that `veridical index build` made."""

    type: Literal["index"] = Field("index", description="Kind of retriever.")
    path: str = Field(description="Folder of the index.")


class WikipediaSettings(PublicSection):
    """Live Wikipedia (extra `wikipedia`)."""

    type: Literal["wikipedia"] = Field("wikipedia", description="Kind of retriever.")
    language: str = Field(
        "en", pattern=_LANGUAGE, description="Language of the wiki; no request can change it."
    )
    api_url: str = Field("", pattern=_WIKI_URL, description="Address of its API; empty = the language's own.")


class WikidataSettings(PublicSection):
    """Facts of Wikidata: entities by its search, facts by SPARQL."""

    type: Literal["wikidata"] = Field("wikidata", description="Kind of retriever.")
    language: str = Field("en", pattern=_LANGUAGE, description="Language of labels and facts.")
    api_url: str = Field(
        "https://www.wikidata.org/w/api.php", pattern=_URL, description="Address of its search API."
    )
    sparql_url: str = Field("https://query.wikidata.org/sparql", pattern=_URL, description="SPARQL endpoint.")
    queries: Literal["text", "sparql"] = Field(
        "text", description="What a model that writes queries for it (cok) writes them in."
    )


class WebSettings(PublicSection):
    """A web search: SearxNG's JSON, or an API of Tavily's shape."""

    type: Literal["web"] = Field("web", description="Kind of retriever.")
    url: str = Field(pattern=_URL, description="Search endpoint.")
    api: Literal["searxng", "tavily"] = Field("searxng", description="What the endpoint speaks.")
    api_key_env: str | None = Field(None, description="Environment variable with its key.")
    language: str = Field("en", description="Language that SearxNG is asked for.")
    options: dict[str, str | int | bool] = Field({}, description="Further fields of each request.")
    cache_ttl_s: float = Field(_DAY_S, gt=0, description="Seconds that an answer is kept.")


class LangChainRetrieverSettings(CachedSection):
    """Any langchain-core retriever or vector store, by import string."""

    type: Literal["langchain"] = Field("langchain", description="Kind of retriever.")
    retriever_class: str = Field(description="Import string, such as langchain_qdrant:QdrantVectorStore.")
    kwargs: dict[str, Any] = Field(
        {}, description="Its arguments; NAME_env gives NAME from an environment variable."
    )
    keys: dict[str, str] = Field({}, description="Which of its metadata hold our source, title, url, score.")
    k_argument: str | None = Field(
        None, description="Its argument for the number of passages; a vector store's is known."
    )
    cache: bool = Field(False, description="Whether its answers are kept on disk.")


class PluginRetrieverSettings(CachedSection):
    """A retriever that an installed package adds by its entry point."""

    type: Literal["plugin"] = Field("plugin", description="Kind of retriever.")
    retriever: str = Field(description="Its name among the entry points.")
    kwargs: dict[str, Any] = Field(
        {}, description="Its arguments; NAME_env gives NAME, a SecretStr, from an environment variable."
    )
    cache: bool = Field(False, description="Whether its answers are kept on disk.")


class HybridSettings(RetrieverSection):
    """Other sources asked at once, their rankings fused; one that fails is left out, and the trace tells."""

    type: Literal["hybrid"] = Field("hybrid", description="Kind of retriever.")
    sources: tuple[str, ...] = Field(min_length=1, description="Sources to ask, by their names here.")
    weights: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (), description="One weight for each; none = all count the same."
    )
    depth: int = Field(20, ge=1, description="Passages that each is asked for, at least.")
    timeout_s: float = Field(20.0, gt=0, description="Seconds after which a source is left out.")

    @property
    def parts(self) -> tuple[str, ...]:
        """The sources that are fused."""
        return self.sources

    @pydantic.model_validator(mode="after")
    def _fit(self) -> Self:
        if self.weights and len(self.weights) != len(self.sources):
            raise ValueError(f"{len(self.weights)} weights for {len(self.sources)} sources")
        if len(set(self.sources)) < len(self.sources):
            raise ValueError("a source is named twice")
        return self


class RerankSettings(RetrieverSection):
    """Another source, its passages reordered by a cross-encoder (extra `dense`)."""

    type: Literal["rerank"] = Field("rerank", description="Kind of retriever.")
    source: str = Field(description="Source to ask, by its name here.")
    model: str = Field(description="Cross-encoder: model folder or hub name.")
    depth: int = Field(30, ge=1, description="Passages that the source is asked for, at least.")
    timeout_s: float = Field(30.0, gt=0, description="Seconds that search and reordering may take.")

    @property
    def parts(self) -> tuple[str, ...]:
        """The one source."""
        return (self.source,)


RetrieverSettings = Annotated[
    IndexSettings
    | WikipediaSettings
    | WikidataSettings
    | WebSettings
    | LangChainRetrieverSettings
    | PluginRetrieverSettings
    | HybridSettings
    | RerankSettings,
    Field(discriminator="type"),
]

RETRIEVER_KINDS: Mapping[str, type[RetrieverSection]] = {
    "index": IndexSettings,
    "wikipedia": WikipediaSettings,
    "wikidata": WikidataSettings,
    "web": WebSettings,
    "langchain": LangChainRetrieverSettings,
    "plugin": PluginRetrieverSettings,
    "hybrid": HybridSettings,
    "rerank": RerankSettings,
}
