"""What can go wrong when evidence is fetched, as a small tree.

RetrieverError
├── IndexUnusable             the files of a local index
│   ├── IndexMissing          there is no index in that folder
│   ├── IndexCorrupt          a file is damaged, cut short or gone
│   ├── IndexMismatch         sound, but made with another format, model or part than is asked of it
│   └── IndexBusy             another process is building it
├── CorpusInvalid             the input of a build cannot be used; the message names the line
├── RetrieverMisconfigured    a setting, an import string, an extra that is not installed
├── RetrieverUnavailable      a source cannot be reached, or refuses
│   └── RetrieverRateLimited  it asks to be left alone for a while (429, maxlag)
├── RetrieverTimeout          no answer in time
└── RetrieverBroken           its answer is not what its protocol promises
"""

from __future__ import annotations


class RetrieverError(Exception):
    """Base of every error of this package; `message` is safe to show to a client."""

    code = "retriever_error"
    retryable = False

    def __init__(self, message: str, *, retriever: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.retriever = retriever


class IndexUnusable(RetrieverError):
    """A local index cannot be searched."""

    code = "index_unusable"


class IndexMissing(IndexUnusable):
    """There is no index in the folder."""

    code = "index_missing"


class IndexCorrupt(IndexUnusable):
    """A file of the index is damaged, cut short or gone: build it again."""

    code = "index_corrupt"


class IndexMismatch(IndexUnusable):
    """The index is sound, but not for this format, embedding model or kind of search."""

    code = "index_mismatch"


class IndexBusy(IndexUnusable):
    """Another process is building this index."""

    code = "index_busy"


class CorpusInvalid(RetrieverError):
    """A build's input cannot be used."""

    code = "corpus_invalid"


class RetrieverMisconfigured(RetrieverError):
    """A retriever cannot be made from its settings."""

    code = "retriever_misconfigured"


class RetrieverUnavailable(RetrieverError):
    """A source cannot be reached, or refuses."""

    code = "retriever_unavailable"
    retryable = True


class RetrieverRateLimited(RetrieverUnavailable):
    """A source asks for a pause; `retry_after` is its length in seconds, where it said."""

    code = "retriever_rate_limited"

    def __init__(self, message: str, *, retriever: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, retriever=retriever)
        self.retry_after = retry_after


class RetrieverTimeout(RetrieverError):
    """A source did not answer in time."""

    code = "retriever_timeout"
    retryable = True


class RetrieverBroken(RetrieverError):
    """A source answered, but not in the shape that its protocol promises."""

    code = "retriever_broken"
