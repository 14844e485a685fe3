"""Any langchain retriever, so that a search server can hold what one machine cannot."""

from __future__ import annotations

import asyncio
import functools
import importlib
import uuid
from collections.abc import Mapping
from typing import Any, Self

from langchain_core.callbacks import Callbacks
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import VectorStore
from pydantic import Field, PrivateAttr

from veridical.retrievers.base import Retriever, document
from veridical.retrievers.errors import (
    RetrieverBroken,
    RetrieverError,
    RetrieverMisconfigured,
    RetrieverTimeout,
    RetrieverUnavailable,
)
from veridical.retrievers.secrets import Secret, holds_secret


class LangChainRetriever(Retriever):
    """Wraps a third party's retriever: same documents, this package's metadata and errors.

    `keys` says which of its metadata hold ours, where they are called otherwise, for instance
    `{"source": "doc_id", "url": "link"}`. `k_argument` names the argument by which it takes the number
    of documents per call; without one it is asked as it stands and the result is cut. `timeout` is in
    seconds and holds for async calls. `discreet` leaves its own words out of errors, since they may quote
    a secret that it was given.
    """

    name: str | None = "langchain"
    retriever: BaseRetriever
    keys: Mapping[str, str] = Field(default_factory=dict)
    k_argument: str | None = None
    timeout: float | None = Field(default=None, gt=0)
    origin: str = ""
    discreet: bool = False
    _own: str = PrivateAttr(default_factory=lambda: uuid.uuid4().hex)

    @classmethod
    def load(cls, path: str, kwargs: Mapping[str, Any] | None = None, **settings: Any) -> Self:
        """Import `package.module:name` and call it with `kwargs`: all that a configuration file can say.

        It names a retriever, a vector store, or a function that makes one of them. An argument of the
        form `{"import": "package.module:name", "kwargs": {…}}` is made in the same way, and a `Secret`
        gives its value to the call and to nothing else.
        """
        settings = {"discreet": holds_secret(kwargs), **settings}
        made = _made({"import": path, "kwargs": kwargs or {}})
        if isinstance(made, VectorStore):
            made, settings = made.as_retriever(), {"k_argument": "k", **settings}
        if not isinstance(made, BaseRetriever):
            raise RetrieverMisconfigured(f"{path} made a {type(made).__name__}, not a langchain retriever")
        return cls(retriever=made, origin=f"{path}({sorted((kwargs or {}).items())})", **settings)

    @property
    def identity(self) -> str:
        """The import string with its arguments; without one, this object alone."""
        return f"langchain:{self.origin or self._own}:{sorted(self.keys.items())}"

    def find(self, query: str, k: int, callbacks: Callbacks = None) -> list[Document]:
        """Ask the wrapped retriever."""
        try:
            found = self.retriever.invoke(query, {"callbacks": callbacks}, **self._arguments(k))
        except Exception as error:  # noqa: BLE001 - translated and raised
            raise self._translated(error) from (None if self.discreet else error)
        return self._ours(found, k)

    async def afind(self, query: str, k: int, callbacks: Callbacks = None) -> list[Document]:
        """Ask the wrapped retriever."""
        try:
            async with asyncio.timeout(self.timeout):
                found = await self.retriever.ainvoke(query, {"callbacks": callbacks}, **self._arguments(k))
        except Exception as error:  # noqa: BLE001 - translated and raised
            raise self._translated(error) from (None if self.discreet else error)
        return self._ours(found, k)

    def _arguments(self, k: int) -> dict[str, Any]:
        return {self.k_argument: k} if self.k_argument else {}

    def _translated(self, error: Exception) -> RetrieverError:
        """A third party may raise anything; here it becomes one of ours, and nothing is swallowed."""
        what = f"{self.get_name()} ({type(self.retriever).__name__})"
        if isinstance(error, RetrieverError):
            return error
        if isinstance(error, TimeoutError):
            return RetrieverTimeout(f"{what}: no answer in time", retriever=self.get_name())
        return RetrieverUnavailable(f"{what}: {_words(error, self.discreet)}", retriever=self.get_name())

    def _ours(self, found: Any, k: int) -> list[Document]:
        if not isinstance(found, list) or not all(isinstance(doc, Document) for doc in found):
            raise RetrieverBroken(f"{self.get_name()} gave no list of documents", retriever=self.get_name())
        return [self._document(doc) for doc in found[:k]]

    def _document(self, doc: Document) -> Document:
        def value(key: str) -> Any:
            return doc.metadata.get(self.keys.get(key, key))

        score = value("score")
        return document(
            doc.page_content,
            **{
                **doc.metadata,
                "source": str(value("source") or doc.id or value("url") or ""),
                "title": str(value("title") or ""),
                "url": str(value("url") or ""),
                "score": float(score) if isinstance(score, int | float) else None,
                "retriever": self.get_name(),
            },
        )


def _words(error: Exception, discreet: bool) -> str:
    """What a third party's error says; where it may quote a secret, in whole or in part, its type alone."""
    return type(error).__name__ if discreet else f"{type(error).__name__}: {error}"


def _made(value: Any) -> Any:
    """A value of the configuration, with what it names imported and made."""
    if isinstance(value, Secret):
        return value.value
    if isinstance(value, list | tuple):
        return [_made(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    if "import" not in value:
        return {key: _made(item) for key, item in value.items()}
    make, kwargs = imported(value["import"]), value.get("kwargs", {})
    arguments = {key: _made(argument) for key, argument in kwargs.items()}
    discreet = holds_secret(kwargs)
    try:
        return make(**arguments)
    except Exception as error:  # noqa: BLE001 - a third party may raise anything
        words = f"{value['import']}: {_words(error, discreet)}"
        raise RetrieverMisconfigured(words) from (None if discreet else error)


def imported(path: str) -> Any:
    """What an import string of the form `package.module:name` or `package.module:Class.method` names.

    Raises:
        RetrieverMisconfigured: it is not there, or its module fails when it is imported.
    """
    module, _, name = path.partition(":") if ":" in path else path.rpartition(".")
    if not module or not name:
        raise RetrieverMisconfigured(f"{path!r} is no import string of the form package.module:name")
    try:
        found = importlib.import_module(module)
    except Exception as error:  # another's code
        raise RetrieverMisconfigured(f"Cannot import {path}: {error}") from error
    try:
        return functools.reduce(getattr, name.split("."), found)
    except AttributeError as error:
        raise RetrieverMisconfigured(f"Cannot import {path}: {module} has no {name!r}") from error
