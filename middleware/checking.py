"""What `veridical check-config` looks at beyond what `serve` does at its start; it asks no network."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from veridical.middleware.backend_config import VllmBackendSettings
from veridical.middleware.config import Settings
from veridical.middleware.retriever_config import (
    CachedSection,
    IndexSettings,
    LangChainRetrieverSettings,
    RerankSettings,
    RetrieverSettings,
    WikidataSettings,
    WikipediaSettings,
)
from veridical.retrievers.errors import RetrieverError

#: Modules that a kind of source needs, and the extra that brings each.
_BM25 = {"bm25s": "bm25", "Stemmer": "bm25"}
_DENSE = {"sentence_transformers": "dense", "faiss": "dense"}
_WIKIPEDIA = {"wikipedia": "wikipedia", "Stemmer": "wikipedia"}
_WIKIDATA = {"Stemmer": "bm25"}
_RERANK = {"sentence_transformers": "dense"}


def faults(settings: Settings) -> list[str]:
    """Why sources of evidence would fail at their first search."""
    return [
        f"retrievers.{name}: {fault}"
        for name, each in settings.retrievers.items()
        for fault in _faults_of(each)
    ]


def warnings(settings: Settings) -> list[str]:
    """What may not work as it is meant, or not on this machine."""
    return [
        *(
            f"retrievers.{name}: {each.cache_file} cannot be written; answers would be kept in memory."
            for name, each in settings.retrievers.items()
            if isinstance(each, CachedSection) and each.cache and not _can_write(each.cache_file)
        ),
        *(
            f"backends.{name}: {each.command[0]!r} is not found, or may not be run."
            for name, each in settings.backends.items()
            if isinstance(each, VllmBackendSettings) and each.command and not _can_run(each)
        ),
    ]


def _faults_of(settings: RetrieverSettings) -> Iterator[str]:
    match settings:
        case IndexSettings():
            yield from _index_faults(Path(settings.path).expanduser())
        case WikipediaSettings():
            yield from _missing(_WIKIPEDIA)
        case WikidataSettings():
            yield from _missing(_WIKIDATA)
        case LangChainRetrieverSettings():
            yield from _import_faults({"import": settings.retriever_class, "kwargs": settings.kwargs})
        case RerankSettings():
            yield from _missing(_RERANK)
        case _:
            pass


def _index_faults(folder: Path) -> Iterator[str]:
    """By the manifest: the files themselves are compared with it when the index is opened."""
    if missing := [*_missing({"numpy": "bm25"})]:
        yield from missing
        return
    from veridical.retrievers.index import info

    try:
        found = info(folder)
    except RetrieverError as error:
        yield error.message
        return
    yield from _missing({**(_BM25 if found.bm25 else {}), **(_DENSE if found.dense else {})})


def _import_faults(value: Any) -> Iterator[str]:
    """What cannot be imported of all that a tree of arguments names."""
    if isinstance(value, list | tuple):
        for item in value:
            yield from _import_faults(item)
    elif isinstance(value, Mapping):
        if isinstance(value.get("import"), str):
            yield from _import_fault(value["import"])
        for item in value.values():
            yield from _import_faults(item)


def _import_fault(path: str) -> Iterator[str]:
    from veridical.retrievers.langchain import imported

    try:
        imported(path)
    except RetrieverError as error:
        yield error.message


def _missing(modules: Mapping[str, str]) -> Iterator[str]:
    for extra in dict.fromkeys(extra for module, extra in modules.items() if find_spec(module) is None):
        yield f"it needs an extra: pip install 'veridical[{extra}]'"


def _can_write(file: str) -> bool:
    """Whether a file can be written, or made where it is not."""
    try:
        path = Path(file).expanduser().absolute()
        nearest = next(each for each in (path, *path.parents) if each.exists())
    except (OSError, RuntimeError):  # the latter: there is no home
        return False
    return os.access(nearest, os.W_OK) and (nearest.is_file() if nearest == path else nearest.is_dir())


def _can_run(settings: VllmBackendSettings) -> bool:
    command = settings.command[0].replace("{model}", settings.model)
    return shutil.which(command, path=settings.env.get("PATH")) is not None
