"""Wikidata: the items that a question names, found by the search API, and their facts, by SPARQL."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.documents import Document
from pydantic import Field

from veridical.retrievers.base import document
from veridical.retrievers.errors import (
    RetrieverBroken,
    RetrieverMisconfigured,
    RetrieverRateLimited,
    RetrieverUnavailable,
)
from veridical.retrievers.ranking import bm25_scores
from veridical.retrievers.remote import RemoteRetriever
from veridical.retrievers.sparql import (
    Fact,
    Row,
    checked,
    facts,
    facts_query,
    is_sparql,
    item_id,
    labels_query,
    linked,
    names_in,
    rows,
    words,
)
from veridical.retrievers.terms import STOP_WORDS, Analyzer

_QUOTED = re.compile(r"[\"“”«»]([^\"“”«»]{2,80})[\"“”«»]")
_WORD = re.compile(r"[\w'’.\-]*\w")
#: Words that may stand inside a name: "Bank of England", "Vincent van Gogh".
_INSIDE = frozenset(
    ["of", "the", "and", "de", "del", "der", "di", "du", "la", "le", "van", "von", "al", "in", "for"]
)
_ID = re.compile(r"Q[1-9]\d*")
#: What a name behind a SPARQL prefix is, for the search API, and the ids that it may have.
_KIND = {"wd": ("item", _ID), "wdt": ("property", re.compile(r"P[1-9]\d*"))}


def mentions(query: str) -> list[str]:
    """The names in a question: what is quoted, then runs of capitalised words; else its content words."""
    quoted = [match[1].strip() for match in _QUOTED.finditer(query)]
    names = [*quoted, *_capitalised(_QUOTED.sub(" . ", query))]
    if names:
        return list(dict.fromkeys(names))
    kept = [word for word in _WORD.findall(query) if word.lower() not in STOP_WORDS]
    return [" ".join(kept)] if kept else []


def _capitalised(query: str) -> Iterator[str]:
    run: list[str] = []
    for match in [*_WORD.finditer(query), None]:
        word = match[0] if match else ""
        breaks = match is None or (run and query[: match.start()].rstrip()[-1:] in ",;:.?!()")
        if breaks:
            yield from _name(run)
            run = []
        if word[:1].isupper() or word[:1].isdigit() or (run and word in _INSIDE):
            run.append(word)
        elif run:
            yield from _name(run)
            run = []


def _name(run: Sequence[str]) -> Iterator[str]:
    """A run without the question word that begins it and the small words that end it.

    Of "A and B" both the whole and its parts are names: it may be Bosnia and Herzegovina, or two towns.
    """
    words = list(run)
    while words and (words[0].lower() in STOP_WORDS or (words[0].isdigit() and len(words) > 1)):
        words.pop(0)
    while words and words[-1] in _INSIDE:
        words.pop()
    if words and not all(word.isdigit() for word in words):
        name = " ".join(words).removesuffix("'s").removesuffix("’s")
        yield name
        if " and " in name:
            yield from name.split(" and ")


@dataclass(frozen=True, slots=True)
class Item:
    """An item of Wikidata, as its search gives it."""

    id: str
    label: str
    description: str


class WikidataRetriever(RemoteRetriever):
    """Facts of the items that a query names, each passage with the address of its item.

    A query that is SPARQL itself (SELECT or ASK) is run and its rows are put into words. Names between
    slashes in it (`wd:/Marie Curie/ wdt:/place of birth/ ?answer`) are linked to ids first, the way
    Chain-of-Knowledge has models write queries (Li et al., 2024, section 2.2).
    `mentions` is how many names of a query are looked up, `candidates` among how many items of that name
    the one nearest to the query is chosen; `max_chars` bounds a passage.
    """

    name: str | None = "wikidata"
    language: str = Field(default="en", pattern=r"^[a-z][a-z-]{1,15}$")
    api_url: str = "https://www.wikidata.org/w/api.php"
    sparql_url: str = "https://query.wikidata.org/sparql"
    page_url: str = "https://www.wikidata.org/wiki/"
    mentions: int = Field(default=3, ge=1, le=10)
    candidates: int = Field(default=5, ge=1, le=20)
    max_chars: int = Field(default=800, ge=100)

    @property
    def identity(self) -> str:
        """The endpoints and how items are chosen and told."""
        where = f"{self.api_url}:{self.sparql_url}:{self.language}"
        return f"wikidata:{where}:{self.mentions}:{self.candidates}:{self.max_chars}"

    async def ask(self, query: str, k: int) -> list[Document]:
        """Link the query to items and tell what is known of them, or run its SPARQL."""
        if is_sparql(query):
            found = await self.select(await self.linked(query))
            return self._told(query, await self._labelled(found), k)
        items = await self.link(query)
        if not items:
            return []
        known = facts(await self.select(facts_query([item.id for item in items], self.language)))
        return self._passages(query, items, known)[:k]

    async def link(self, query: str) -> list[Item]:
        """The items that the query names, in its order."""
        names = mentions(query)[: self.mentions]
        try:
            async with asyncio.TaskGroup() as group:
                searches = [group.create_task(self._search(name)) for name in names]
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        chosen = [self._nearest(query, search.result()) for search in searches]
        return list({item.id: item for item in chosen if item}.values())

    async def select(self, query: str) -> list[Row]:
        """The rows of a SPARQL query."""
        accept = {"Accept": "application/sparql-results+json"}
        answer = await self.request("POST", self.sparql_url, form={"query": checked(query)}, headers=accept)
        return rows(answer, self.get_name())

    async def linked(self, query: str) -> str:
        """A SPARQL query with the names between its slashes replaced by the ids that they are known by.

        Raises:
            RetrieverMisconfigured: Wikidata knows nothing of one of the names.
        """
        names = names_in(query)[: 2 * self.mentions]
        try:
            async with asyncio.TaskGroup() as group:
                searches = {name: group.create_task(self._search(name[1], *_KIND[name[0]])) for name in names}
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        ids = {name: found[0].id for name, search in searches.items() if (found := search.result())}
        if unknown := [name for name in names_in(query) if name not in ids]:
            raise RetrieverMisconfigured(f"{self.get_name()} has no entry named {unknown[0][1]!r}")
        return linked(query, ids)

    async def _labelled(self, found: Sequence[Row]) -> Sequence[Row]:
        """The rows with the names of the items in them, where the query asked for none."""
        ids = {item_id(row[name]["value"]) for row in found for name in row if f"{name}Label" not in row}
        items = sorted(each for each in ids if _ID.fullmatch(each))
        if not items:
            return found
        told = await self.select(labels_query(items, self.language))
        labels = {item_id(row["item"]["value"]): row["itemLabel"] for row in told}
        return [{**_labels(row, labels), **row} for row in found]

    async def _search(self, name: str, kind: str = "item", pattern: re.Pattern[str] = _ID) -> list[Item]:
        params = {
            "action": "wbsearchentities",
            "search": name[:250],
            "language": self.language,
            "uselang": self.language,
            "type": kind,
            "limit": str(self.candidates),
            "format": "json",
            "maxlag": "5",
        }
        answer = await self.request("GET", self.api_url, params=params)
        who = self.get_name()
        if isinstance(answer, dict) and "error" in answer:
            raise _refused(answer["error"], who)
        try:
            return [_item(found) for found in answer["search"] if pattern.fullmatch(found["id"])]
        except (KeyError, TypeError) as error:
            raise RetrieverBroken(f"{who} sent search results of another shape", retriever=who) from error

    def _nearest(self, query: str, items: Sequence[Item]) -> Item | None:
        """The candidate whose description shares most with the query; else the first, the best known."""
        scores = bm25_scores(query, [item.description for item in items], self._analyzer)
        best = max(range(len(items)), key=lambda number: (scores[number], -number), default=None)
        return None if best is None else items[best]

    @property
    def _analyzer(self) -> Analyzer:
        return Analyzer("english" if self.language == "en" else "")

    def _passages(self, query: str, items: Sequence[Item], found: Sequence[Fact]) -> list[Document]:
        """Each item's facts, those nearest to the query first, packed into passages; items take turns."""
        packed = [self._pack(query, item, [fact for fact in found if fact.item == item.id]) for item in items]
        deepest = max(map(len, packed), default=0)
        return [part[turn] for turn in range(deepest) for part in packed if turn < len(part)]

    def _pack(self, query: str, item: Item, known: Sequence[Fact]) -> list[Document]:
        scores = bm25_scores(query, [str(fact) for fact in known], self._analyzer)
        order = sorted(range(len(known)), key=lambda number: -scores[number])
        opening = f"{item.label} ({item.description})." if item.description else f"{item.label}."
        texts: list[list[str]] = [[]]
        score = [0.0]
        for number in order:
            if (
                texts[-1]
                and len(opening) + sum(map(len, texts[-1])) + len(str(known[number])) > self.max_chars
            ):
                texts.append([])
                score.append(0.0)
            texts[-1].append(f" {known[number]}."[: self.max_chars])
            score[-1] = max(score[-1], scores[number])
        return [
            document(
                opening + "".join(text),
                source=item.id if number == 1 else f"{item.id}#{number}",
                title=item.label,
                url=self.page_url + item.id,
                score=score[number - 1],
                retriever=self.get_name(),
            )
            for number, text in enumerate(texts, 1)
        ]

    def _told(self, query: str, found: Sequence[Row], k: int) -> list[Document]:
        """Rows of a query in words: names and values, labels in place of items."""
        digest = hashlib.sha256(query.encode()).hexdigest()[:12]
        told = [self._row(row, f"sparql:{digest}#{number}") for number, row in enumerate(found[:k], 1)]
        return [doc for doc in told if doc.page_content]

    def _row(self, row: Row, source: str) -> Document:
        names = [name for name in row if not (name.endswith("Label") and name[:-5] in row)]
        pairs = [(name, words(row, name) or item_id(row[name]["value"])) for name in names]
        ids = [found for name in names if (found := item_id(row[name]["value"]))]
        return document(
            "; ".join(f"{name}: {word}" for name, word in pairs if word),
            source=source,
            title="",
            url=self.page_url + ids[0] if ids else "",
            score=None,
            retriever=self.get_name(),
        )


def _labels(row: Row, labels: Mapping[str, Mapping[str, str]]) -> dict[str, Mapping[str, str]]:
    named = {f"{name}Label": labels.get(item_id(cell["value"])) for name, cell in row.items()}
    return {name: label for name, label in named.items() if label is not None}


def _item(found: Mapping[str, Any]) -> Item:
    return Item(found["id"], str(found.get("label") or found["id"]), str(found.get("description") or ""))


def _refused(error: Any, who: str) -> RetrieverUnavailable:
    code = str(error.get("code", "")) if isinstance(error, dict) else ""
    if code in ("maxlag", "ratelimited"):
        return RetrieverRateLimited(f"{who} is busy ({code})", retriever=who)
    info = str(error.get("info", ""))[:200] if isinstance(error, dict) else ""
    return RetrieverUnavailable(f"{who} refused: {code}: {info}", retriever=who)
