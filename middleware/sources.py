"""From the configured retrievers to the sources that strategies search; none is opened yet."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from veridical.middleware.retrieval import Source
from veridical.middleware.retriever_config import (
    CachedSection,
    HybridSettings,
    IndexSettings,
    LangChainRetrieverSettings,
    PluginRetrieverSettings,
    PublicSection,
    RerankSettings,
    RetrieverSettings,
    WebSettings,
    WikidataSettings,
    WikipediaSettings,
)
from veridical.retrievers.errors import RetrieverMisconfigured
from veridical.retrievers.secrets import Secret
from veridical.strategies.errors import ConfigError, suggestion
from veridical.strategies.trace import searching

if TYPE_CHECKING:
    from veridical.retrievers.base import Retriever
    from veridical.retrievers.hybrid import PartFailed

log = logging.getLogger(__name__)

#: Answers that are kept in memory where the cache's file cannot be used.
KEPT_IN_MEMORY = 1000

ReadSecret = Callable[[str], str]
Make = Callable[[], "Retriever"]


def sources(settings: Mapping[str, RetrieverSettings], secret: ReadSecret) -> dict[str, Source]:
    """The configured sources by name; without one called `default` the first is also that.

    Raises:
        ConfigError: a source names another that is not there, or itself; a secret is not set.
    """
    made: dict[str, Source] = {}

    def source(name: str) -> Source:
        if name not in made:
            each = settings[name]
            parts = tuple(map(source, each.parts))
            made[name] = _source(name, each, parts, secret)
        return made[name]

    for name in settings:
        _check_parts(name, settings, ())
    named = {name: source(name) for name in settings}
    if named and "default" not in named:
        named["default"] = next(iter(named.values()))
    return named


def _check_parts(name: str, settings: Mapping[str, RetrieverSettings], path: tuple[str, ...]) -> None:
    """Refuse names of parts that lead nowhere, or back."""
    if name in path:
        circle = " → ".join((*path[path.index(name) :], name))
        raise ConfigError(f"retrievers.{name} is made of itself: {circle}.")
    for part in settings[name].parts:
        if part not in settings:
            words = f"retrievers.{name} is made of {part!r}, and there is no [retrievers.{part}]."
            raise ConfigError(words + suggestion(part, settings.keys() - {name}))
        _check_parts(part, settings, (*path, name))


def _source(name: str, settings: RetrieverSettings, parts: tuple[Source, ...], secret: ReadSecret) -> Source:
    match settings:
        case HybridSettings():
            # It is bounded by leaving out what is slow. What cannot be opened is left out too.
            return Source(name, lambda: _hybrid(settings, parts), None)
        case RerankSettings():
            return Source(name, lambda: _rerank(settings, parts[0]), settings.timeout_s, needs=parts)
        case IndexSettings():
            return Source(name, lambda: _index(settings), settings.timeout_s)
        case _:
            make = _remote(settings, secret)
            return Source(name, lambda: _cached(make(), settings), settings.timeout_s)


def _index(settings: IndexSettings) -> Retriever:
    from veridical.retrievers.index import open_retriever

    return open_retriever(Path(settings.path).expanduser(), report=_report)


def _hybrid(settings: HybridSettings, parts: tuple[Source, ...]) -> Retriever:
    from veridical.middleware.source_part import Part
    from veridical.retrievers.hybrid import HybridRetriever

    return HybridRetriever(
        retrievers=tuple(Part(name=each.name, search=each.search) for each in parts),
        weights=settings.weights,
        depth=settings.depth,
        timeout=settings.timeout_s,
        report=_report,
    )


def _rerank(settings: RerankSettings, part: Source) -> Retriever:
    from veridical.middleware.source_part import Part
    from veridical.retrievers.rerank import CrossEncoderScore, RerankRetriever

    # Loaded here, since opening is not part of a search's time.
    score = CrossEncoderScore.load(settings.model)
    inner = Part(name=part.name, search=part.search)
    return RerankRetriever(retriever=inner, model=settings.model, depth=settings.depth, score=score)


def _report(part: PartFailed) -> None:
    """Tell the search of this task that a part of its source failed."""
    search = searching.get()
    if search is not None:
        search.failed[part.retriever] = part.error.code


Remote = (
    WikipediaSettings | WikidataSettings | WebSettings | LangChainRetrieverSettings | PluginRetrieverSettings
)


def _remote(settings: Remote, secret: ReadSecret) -> Make:
    """What opens a remote retriever; its module is imported then, not now. Secrets are read now."""
    limit = settings.timeout_s
    match settings:
        case WikipediaSettings(language=language, api_url=url):

            def wikipedia() -> Retriever:
                from veridical.retrievers.wikipedia import WikipediaRetriever

                return WikipediaRetriever(language=language, api_url=url, timeout=limit, **_agent(settings))

            return wikipedia
        case WikidataSettings(language=language, api_url=url, sparql_url=sparql):

            def wikidata() -> Retriever:
                from veridical.retrievers.wikidata import WikidataRetriever

                return WikidataRetriever(
                    language=language, api_url=url, sparql_url=sparql, timeout=limit, **_agent(settings)
                )

            return wikidata
        case WebSettings():
            return _web(settings, secret)
        case LangChainRetrieverSettings():
            return _langchain(settings, secret)
        case PluginRetrieverSettings():
            return _plugin(settings, secret)


def _web(settings: WebSettings, secret: ReadSecret) -> Make:
    key = SecretStr(secret(settings.api_key_env)) if settings.api_key_env else None

    def make() -> Retriever:
        from veridical.retrievers.web import WebRetriever

        return WebRetriever(
            url=settings.url,
            api=settings.api,
            api_key=key,
            language=settings.language,
            options=settings.options,
            timeout=settings.timeout_s,
            **_agent(settings),
        )

    return make


def _langchain(settings: LangChainRetrieverSettings, secret: ReadSecret) -> Make:
    kwargs = with_secrets(settings.kwargs, secret)
    more = {"k_argument": settings.k_argument} if settings.k_argument else {}

    def make() -> Retriever:
        from veridical.retrievers.langchain import LangChainRetriever

        return LangChainRetriever.load(
            settings.retriever_class, kwargs, keys=settings.keys, timeout=settings.timeout_s, **more
        )

    return make


def _plugin(settings: PluginRetrieverSettings, secret: ReadSecret) -> Make:
    kwargs = {key: _revealed(value) for key, value in with_secrets(settings.kwargs, secret).items()}

    def make() -> Retriever:
        from veridical.retrievers.registry import retriever_class

        return retriever_class(settings.retriever)(**kwargs)

    return make


def _agent(settings: PublicSection) -> dict[str, Any]:
    return {"user_agent": settings.user_agent} if settings.user_agent else {}


def with_secrets(value: Any, secret: ReadSecret) -> Any:
    """`value` with each `NAME_env = "VARIABLE"`, at any depth, as `NAME` and the variable's secret.

    Raises:
        ConfigError: a variable is not set, or NAME is given as well.
    """
    if isinstance(value, list | tuple):
        return [with_secrets(item, secret) for item in value]
    if not isinstance(value, Mapping):
        return value
    found: dict[str, Any] = {}
    for key, item in value.items():
        if not (key.endswith("_env") and isinstance(item, str)):
            found[key] = with_secrets(item, secret)
            continue
        name = key.removesuffix("_env")
        if name in value:
            raise ConfigError(f"{name} and {key} are both given: one of them must go.")
        found[name] = Secret(item, secret(item))
    return found


def _revealed(value: Any) -> Any:
    return SecretStr(value.value) if isinstance(value, Secret) else value


def _cached(retriever: Retriever, settings: CachedSection) -> Retriever:
    """The retriever behind its cache. One that cannot be used must not stop a search."""
    if not settings.cache:
        return retriever
    from veridical.retrievers.cache import MEMORY, CachedRetriever

    try:
        path = Path(settings.cache_file).expanduser()
        return CachedRetriever(retriever=retriever, path=path, ttl=settings.cache_ttl_s)
    except (RetrieverMisconfigured, RuntimeError) as error:  # the latter: there is no home
        log.warning("%s; its answers are kept in memory.", error)
    return CachedRetriever(
        retriever=retriever, path=Path(MEMORY), ttl=settings.cache_ttl_s, capacity=KEPT_IN_MEMORY
    )
