"""SPARQL questions about Wikibase items, and the words for their answers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from veridical.retrievers.errors import RetrieverBroken, RetrieverMisconfigured

ENTITY = "http://www.wikidata.org/entity/"
#: One row per value of a best-ranked statement. Plain SPARQL 1.1 over the RDF that Wikibase documents,
#: without its label service, so that other engines can answer it too.
_FACTS = """
PREFIX wd: <http://www.wikidata.org/entity/>
PREFIX wikibase: <http://wikiba.se/ontology#>
PREFIX rdfs: <http://www.w3.org/2000/01/rdf-schema#>
SELECT ?item ?property ?propertyLabel ?value ?valueLabel ?unitLabel ?precision WHERE {
  VALUES ?item { %(items)s }
  ?item ?claim ?statement .
  ?statement a wikibase:BestRank .
  ?property wikibase:claim ?claim ; wikibase:statementProperty ?main ; wikibase:propertyType ?type ;
            rdfs:label ?propertyLabel .
  FILTER(LANG(?propertyLabel) = "%(language)s")
  FILTER(?type NOT IN (wikibase:ExternalId, wikibase:CommonsMedia, wikibase:Url, wikibase:GeoShape))
  ?statement ?main ?value .
  OPTIONAL { ?value rdfs:label ?valueLabel . FILTER(LANG(?valueLabel) = "%(language)s") }
  OPTIONAL {
    ?property wikibase:statementValue ?full .
    ?statement ?full ?node .
    OPTIONAL { ?node wikibase:timePrecision ?precision . }
    OPTIONAL {
      ?node wikibase:quantityUnit ?unit .
      ?unit rdfs:label ?unitLabel . FILTER(LANG(?unitLabel) = "%(language)s")
    }
  }
}
LIMIT %(limit)d
"""
#: An address, a string (long ones first) or a comment: in none of them a keyword is one.
_APART = re.compile(
    r"""<[^<>\s]*> | """
    r"""\"{3}(?:\\.|[^\\])*?\"{3} | '{3}(?:\\.|[^\\])*?'{3} | """
    r"""\"(?:\\.|[^\"\\\n])*\" | '(?:\\.|[^'\\\n])*' | \#[^\n]*""",
    re.VERBOSE | re.DOTALL,
)
_PROLOGUE = re.compile(r"\s*(PREFIX\s+\S*:\s*<[^>]*>|BASE\s+<[^>]*>)", re.IGNORECASE)
_SPARQL = re.compile(r"\s*(PREFIX\s+\S*:\s*<|BASE\s+<|SELECT\s+[?*(DR]|ASK\s*(WHERE\s*)?\{)", re.IGNORECASE)
_FORM = re.compile(r"\s*(SELECT|ASK)\b", re.IGNORECASE)
_ELSEWHERE = re.compile(r"\bSERVICE\s+(?:SILENT\s+)?(?!wikibase:)", re.IGNORECASE)
_ITEM = re.compile(r"^https?://[^/]+/entity/([QPL]\d+)$")
_TIME = re.compile(r"^([+-]?)(\d{4,})-(\d\d)-(\d\d)T")
_POINT = re.compile(r"Point\((-?[\d.]+) (-?[\d.]+)\)", re.IGNORECASE)
_MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip

#: A name that still has to be linked: wd:/Marie Curie/ is an item, wdt:/place of birth/ a property.
_NAMED = re.compile(r"\b(wdt?):/([^/<>{}\n]{1,100})/")
_PREFIXES = {"wd": ENTITY, "wdt": "http://www.wikidata.org/prop/direct/"}
_LABELS = """
PREFIX wd: <http://www.wikidata.org/entity/>
PREFIX rdfs: <http://www.w3.org/2000/01/rdf-schema#>
SELECT ?item ?itemLabel WHERE {
  VALUES ?item { %(items)s }
  ?item rdfs:label ?itemLabel . FILTER(LANG(?itemLabel) = "%(language)s")
}
"""

Row = Mapping[str, Mapping[str, str]]
#: An item or a property by the name that a query calls it: ("wd", "Marie Curie").
Name = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Fact:
    """One property of one item with all its values, in words."""

    item: str
    property: str
    values: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.property}: {'; '.join(self.values)}"


def facts_query(items: Sequence[str], language: str, limit: int = 1000) -> str:
    """The query for what is known of the items, given by their ids (Q937)."""
    return _FACTS % {"items": " ".join(f"wd:{item}" for item in items), "language": language, "limit": limit}


def labels_query(items: Iterable[str], language: str) -> str:
    """The query for the names of items, given by their ids."""
    return _LABELS % {"items": " ".join(f"wd:{item}" for item in items), "language": language}


def names_in(query: str) -> list[Name]:
    """The names in a SPARQL query that stand where ids belong, each once."""
    return list(dict.fromkeys((prefix, name.strip()) for prefix, name in _NAMED.findall(query)))


def linked(query: str, ids: Mapping[Name, str]) -> str:
    """The query with its names replaced by ids, and the prefixes that it uses declared."""
    whole = _NAMED.sub(lambda match: f"{match[1]}:{ids[match[1], match[2].strip()]}", query)
    missing = [p for p in _PREFIXES if not re.search(rf"PREFIX\s+{p}:", whole, re.IGNORECASE)]
    return "".join(f"PREFIX {p}: <{_PREFIXES[p]}>\n" for p in missing) + whole


def is_sparql(query: str) -> bool:
    """Whether a query is SPARQL rather than words."""
    return bool(_SPARQL.match(query))


def checked(query: str) -> str:
    """The query, if it only reads and only from the endpoint that it is sent to.

    It may come from a model: an update or a call to another host (federation) is refused.
    """
    bare = _APART.sub(lambda match: match[0] if match[0].startswith("<") else " ", query)
    rest = bare
    while match := _PROLOGUE.match(rest):
        rest = rest[match.end() :]
    if not _FORM.match(rest):
        raise RetrieverMisconfigured("Only SELECT and ASK queries are sent to a SPARQL endpoint")
    if _ELSEWHERE.search(bare):
        raise RetrieverMisconfigured("A SPARQL query that calls another service is not sent")
    return query


def rows(answer: Any, who: str) -> list[Row]:
    """The bindings of an answer in the SPARQL 1.1 JSON format; an ASK is one row of its own."""
    if isinstance(answer, dict) and isinstance(answer.get("boolean"), bool):
        return [{"answer": {"type": "literal", "value": "yes" if answer["boolean"] else "no"}}]
    try:
        found = answer["results"]["bindings"]
        if all(isinstance(cell["value"], str) for row in found for cell in row.values()):
            return list(found)
    except (KeyError, TypeError, AttributeError):
        pass
    raise RetrieverBroken(f"{who} sent no SPARQL results", retriever=who)


def facts(found: Iterable[Row]) -> list[Fact]:
    """The rows of `facts_query` as facts, values of one property together, in the order they came."""
    values: dict[tuple[str, str], dict[str, None]] = {}
    for row in found:
        item, word = item_id(row.get("item", {}).get("value", "")), words(row)
        label = row.get("propertyLabel", {}).get("value", "")
        if item and label and word:
            values.setdefault((item, label), {})[word] = None
    return [Fact(item, label, tuple(known)) for (item, label), known in values.items()]


def words(row: Row, name: str = "value") -> str:
    """The value of a variable in words; "" where there are none, as for an item without a label."""
    cell, label = row.get(name, {}), row.get(f"{name}Label", {}).get("value", "")
    value = cell.get("value", "")
    if cell.get("type") == "uri":
        return label if label and not label.startswith("http") else ("" if item_id(value) else value)
    kind = cell.get("datatype", "").rpartition("#")[2]
    if kind in ("dateTime", "date"):
        return date(value, int(row.get("precision", {}).get("value") or 0))
    if kind == "wktLiteral":
        return place(value)
    unit = row.get("unitLabel", {}).get("value", "")
    value = value.removeprefix("+") if kind in ("decimal", "integer") else value
    return f"{value} {unit}" if unit and unit != "1" else value


def item_id(uri: str) -> str:
    """The id in an entity's address, or ""."""
    match = _ITEM.match(uri)
    return match[1] if match else ""


def date(value: str, precision: int = 0) -> str:
    """A point in time, no more precise than it is known.

    Wikibase's precisions: 11 day, 10 month, 9 year, 8 decade, 7 century and coarser.
    Without a precision a first of January is given as its year: Wikibase writes years so.
    """
    match = _TIME.match(value)
    if not match:
        return value
    year, month, day = int(match[2]), int(match[3]), int(match[4])
    precision = precision or (9 if (month, day) == (1, 1) else 11)
    era = " BCE" if match[1] == "-" else ""
    if precision >= 10 and 1 <= month <= 12:
        return (
            f"{day} {_MONTHS[month - 1]} {year}{era}"
            if precision >= 11
            else f"{_MONTHS[month - 1]} {year}{era}"
        )
    if precision == 8:
        return f"{year // 10 * 10}s{era}"
    return f"{_century(year)} century{era}" if precision <= 7 else f"{year}{era}"


def _century(year: int) -> str:
    number = (year + 99) // 100
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def place(value: str) -> str:
    """Coordinates in words."""
    match = _POINT.search(value)
    if not match:
        return value
    east, north = float(match[1]), float(match[2])
    return f"{abs(north):g}° {'N' if north >= 0 else 'S'}, {abs(east):g}° {'E' if east >= 0 else 'W'}"
