"""Live Wikipedia: search, read the best pages, give their best passages."""

from __future__ import annotations

import asyncio
import functools
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from langchain_core.callbacks import Callbacks
from langchain_core.documents import Document
from pydantic import Field

from veridical.retrievers.base import Retriever, document
from veridical.retrievers.chunking import Chunker
from veridical.retrievers.errors import RetrieverError, RetrieverTimeout
from veridical.retrievers.mediawiki import Ambiguous, Deadline, MediaWiki, Page
from veridical.retrievers.ranking import bm25_scores
from veridical.retrievers.remote import USER_AGENT
from veridical.retrievers.terms import Analyzer

log = logging.getLogger(__name__)
T = TypeVar("T")

#: Wikipedia's search takes no more characters.
LONGEST_QUERY = 300
_HEADING = re.compile(r"^(={2,6})[ \t]*(.+?)[ \t]*\1[ \t]*$", re.MULTILINE)
#: Sections that hold no prose.
_APPARATUS = frozenset(
    {
        "bibliography",
        "external links",
        "footnotes",
        "further reading",
        "notes",
        "references",
        "see also",
        "sources",
    }
)
_STEMMERS = {
    "ar": "arabic", "da": "danish", "de": "german", "en": "english", "es": "spanish", "fi": "finnish",
    "fr": "french", "hu": "hungarian", "it": "italian", "nl": "dutch", "no": "norwegian", "pt": "portuguese",
    "ro": "romanian", "ru": "russian", "simple": "english", "sv": "swedish", "tr": "turkish",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page under one heading ("" for the lead)."""

    heading: str
    text: str


def sections(text: str) -> Iterator[Section]:
    """The sections of a page's plain text that hold prose."""
    heading, start = "", 0
    for match in _HEADING.finditer(text):
        yield from _section(heading, text[start : match.start()])
        heading, start = match[2], match.end()
    yield from _section(heading, text[start:])


def _section(heading: str, text: str) -> Iterator[Section]:
    if text.strip() and heading.casefold() not in _APPARATUS:
        yield Section(heading, text.strip())


class WikipediaRetriever(Retriever):
    """Passages of live Wikipedia pages.

    `language` is fixed here and no request can change it; `api_url` (https) overrides the address that
    it implies. `pages` is how many pages of the search result are read, `options` how many meanings of a
    disambiguation page. `timeout` (seconds) bounds a whole search, `request_timeout` each request,
    `rate` requests per second. Calls run in this retriever's own worker threads.
    """

    name: str | None = "wikipedia"
    language: str = Field(default="en", pattern=r"^[a-z][a-z-]{1,15}$")
    api_url: str = Field(default="", pattern=r"^(https://.+|http://(127\.0\.0\.1|localhost|\[::1\])[:/].*)?$")
    user_agent: str = USER_AGENT
    pages: int = Field(default=3, ge=1, le=20)
    options: int = Field(default=2, ge=0, le=5)
    chunker: Chunker = Chunker()
    timeout: float = Field(default=15.0, gt=0)
    request_timeout: float = Field(default=5.0, gt=0)
    rate: float = Field(default=5.0, gt=0)
    threads: int = Field(default=4, ge=1)

    @property
    def identity(self) -> str:
        """The wiki and how its pages are read."""
        return f"wikipedia:{self._wiki.api_url}:{self.pages}:{self.options}:{self.chunker}"

    @functools.cached_property
    def _wiki(self) -> MediaWiki:
        url = self.api_url or f"https://{self.language}.wikipedia.org/w/api.php"
        return MediaWiki(url, self.user_agent, self.request_timeout, self.rate, who=self.get_name())

    @functools.cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.threads, thread_name_prefix=f"wikipedia-{self.language}")

    @functools.cached_property
    def _analyzer(self) -> Analyzer:
        return Analyzer(_STEMMERS.get(self.language, ""))

    def close(self) -> None:
        """Let the worker threads go; work in hand ends at its time limit."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._wiki.close()

    async def aclose(self) -> None:
        """As `close`."""
        self.close()

    def find(self, query: str, k: int, callbacks: Callbacks = None) -> list[Document]:
        """Search and read in worker threads, and wait for them."""
        deadline = Deadline(self.timeout)
        titles = self._pool.submit(self._search, query, deadline).result()
        read = self._reader(deadline)
        found = _good(list(self._pool.map(read, titles)))
        meant = self._meant(query, found)
        return self._ranked(query, k, found + _good(list(self._pool.map(read, meant))))

    async def afind(self, query: str, k: int, callbacks: Callbacks = None) -> list[Document]:
        """As `find`; the caller is let go at the time limit even where a thread is not."""
        deadline = Deadline(self.timeout)
        try:
            async with asyncio.timeout(self.timeout):
                titles = await self._run(self._search, query, deadline)
                read = self._reader(deadline)
                found = _good(await self._each(read, titles))
                meant = await self._each(read, self._meant(query, found))
                return await self._run(self._ranked, query, k, found + _good(meant))
        except TimeoutError:
            who = self.get_name()
            raise RetrieverTimeout(f"{who}: no answer within {self.timeout:g} s", retriever=who) from None
        finally:
            deadline.cancel()

    async def _run(self, fn: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, fn, *args)

    async def _each(self, fn: Callable[[str], T], items: Sequence[str]) -> list[T]:
        return [await run for run in [asyncio.ensure_future(self._run(fn, item)) for item in items]]

    def _search(self, query: str, deadline: Deadline) -> list[str]:
        """The titles found for the query, or else for its content words: the search wants every word."""
        query = " ".join(query.split())[:LONGEST_QUERY]
        if not query:
            return []
        titles = self._wiki.search(query, self.pages, deadline)
        if titles:
            return titles
        words = [word for word in self._analyzer.words(query) if word not in self._analyzer.stop_words]
        return self._wiki.search(" ".join(words), self.pages, deadline) if words else []

    def _reader(self, deadline: Deadline) -> Callable[[str], Page | Ambiguous | RetrieverError | None]:
        def read(title: str) -> Page | Ambiguous | RetrieverError | None:
            try:
                return self._wiki.page(title, deadline)
            except RetrieverError as error:
                return error

        return read

    def _meant(self, query: str, found: Sequence[Page | Ambiguous]) -> list[str]:
        """The options of disambiguation pages that share most words with the query."""
        known = {page.title for page in found}
        options = [o for page in found if isinstance(page, Ambiguous) for o in page.options if o not in known]
        scores = bm25_scores(query, options, self._analyzer)
        best = sorted(range(len(options)), key=lambda number: -scores[number])
        return list(dict.fromkeys(options[number] for number in best))[: self.options]

    def _ranked(self, query: str, k: int, found: Sequence[Page | Ambiguous]) -> list[Document]:
        pages = {page.id: page for page in found if isinstance(page, Page)}
        pieces = [(page, *piece) for page in pages.values() for piece in self._pieces(page)]
        scores = bm25_scores(
            query, [f"{p.title} {heading}\n{text}" for p, _, heading, text in pieces], self._analyzer
        )
        best = sorted(range(len(pieces)), key=lambda number: -scores[number])[:k]
        return [self._document(*pieces[number], scores[number]) for number in best]

    def _pieces(self, page: Page) -> Iterator[tuple[int, str, str]]:
        texts = ((part.heading, text) for part in sections(page.text) for text in self.chunker(part.text))
        for number, (heading, text) in enumerate(texts, 1):
            yield number, heading, text

    def _document(self, page: Page, number: int, heading: str, text: str, score: float) -> Document:
        return document(
            text,
            source=f"wikipedia:{self.language}:{page.id}#{number}",
            title=page.title,
            url=page.url,
            score=score,
            retriever=self.get_name(),
            section=heading,
        )


def _good(
    outcomes: Sequence[Page | Ambiguous | RetrieverError | None],
) -> list[Page | Ambiguous]:
    """The pages that could be read; where none could, the first error is raised."""
    errors = [outcome for outcome in outcomes if isinstance(outcome, RetrieverError)]
    good = [outcome for outcome in outcomes if isinstance(outcome, Page | Ambiguous)]
    for error in errors:
        log.warning("A page is left out: %s", error.message)
    if errors and not good:
        raise errors[0]
    return good
