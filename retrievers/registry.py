"""Retrievers by name: the table of contents of this package, and what others add to it.

Nothing is imported before it is asked for. A plug-in names itself in its distribution's entry-point group
`veridical.retrievers`, with a class that is a `Retriever`.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType

from veridical.retrievers.base import Retriever
from veridical.retrievers.errors import RetrieverMisconfigured

GROUP = "veridical.retrievers"

RETRIEVERS: Mapping[str, str] = MappingProxyType(
    {
        "bm25": "veridical.retrievers.bm25:BM25Retriever",
        "dense": "veridical.retrievers.dense:DenseRetriever",
        "hybrid": "veridical.retrievers.hybrid:HybridRetriever",
        "rerank": "veridical.retrievers.rerank:RerankRetriever",
        "wikipedia": "veridical.retrievers.wikipedia:WikipediaRetriever",
        "wikidata": "veridical.retrievers.wikidata:WikidataRetriever",
        "web": "veridical.retrievers.web:WebRetriever",
        "langchain": "veridical.retrievers.langchain:LangChainRetriever",
        "cached": "veridical.retrievers.cache:CachedRetriever",
    }
)


def retriever_class(name: str) -> type[Retriever]:
    """The class of that name. A name that is unknown, or ours and taken by a plug-in too, is an error."""
    points = entry_points(group=GROUP)
    plugins = {point.name: point for point in points}
    takers = sorted(_origin(point) for point in points if point.name == name)
    if takers and name in RETRIEVERS:
        raise RetrieverMisconfigured(f"{takers[0]} takes the name {name!r}, which is ours")
    if len(takers) > 1:
        raise RetrieverMisconfigured(f"{' and '.join(takers)} take the same name {name!r}")
    if name in RETRIEVERS:
        module, _, cls = RETRIEVERS[name].partition(":")
        found = getattr(importlib.import_module(module), cls)
    elif name in plugins:
        found = _loaded(plugins[name])
    else:
        near = difflib.get_close_matches(name[:80], [*RETRIEVERS, *plugins], n=3)
        hint = f" Did you mean {', '.join(map(repr, near))}?" if near else ""
        raise RetrieverMisconfigured(f"There is no retriever {name[:80]!r}.{hint}")
    if not (isinstance(found, type) and issubclass(found, Retriever)):
        raise RetrieverMisconfigured(f"{name!r} of {_origin(plugins[name])} is no Retriever")
    return found


def _loaded(point: EntryPoint) -> object:
    try:
        return point.load()
    except (Exception, SystemExit) as error:  # another's code
        raise RetrieverMisconfigured(f"{_origin(point)} cannot be loaded: {error}") from error


def _origin(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.value
