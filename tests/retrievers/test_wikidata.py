"""Against a loopback server: the search API as documented, and a real SPARQL engine over a small graph.

The graph has the shape of Wikibase's RDF: statements with ranks, value nodes with precision and unit.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from veridical.retrievers.errors import (
    RetrieverBroken,
    RetrieverError,
    RetrieverMisconfigured,
    RetrieverRateLimited,
    RetrieverTimeout,
    RetrieverUnavailable,
)
from veridical.retrievers.sparql import checked, date, is_sparql, names_in, place, words
from veridical.retrievers.wikidata import WikidataRetriever, mentions

rdflib = pytest.importorskip("rdflib", reason="rdflib answers the SPARQL queries of these tests")

ENTITY, PROP, NAMESPACE = (
    "http://www.wikidata.org/entity/",
    "http://www.wikidata.org/prop/",
    "http://wikiba.se/ontology#",
)
ITEMS = {
    "Q1": ("Marie Curie", "Polish and French physicist"),
    "Q2": ("Warsaw", "capital of Poland"),
    "Q3": ("Pierre Curie", "French physicist"),
    "Q4": ("Mount Everest", "highest mountain on Earth"),
    "Q5": ("metre", "unit of length"),
    "Q6": ("Marie Curie", "1943 film by Mervyn LeRoy"),
    "Q7": ("Mervyn LeRoy", "film director"),
}
PROPERTIES = {
    "P1": ("date of birth", "Time"),
    "P2": ("place of birth", "WikibaseItem"),
    "P3": ("spouse", "WikibaseItem"),
    "P4": ("elevation above sea level", "Quantity"),
    "P5": ("coordinate location", "GlobeCoordinate"),
    "P6": ("catalogue number", "ExternalId"),
    "P7": ("director", "WikibaseItem"),
    "P8": ("given name", "String"),
}


class Graph:
    def __init__(self) -> None:
        self.graph = rdflib.Graph()
        self.count = 0
        for item, (label, _) in ITEMS.items():
            self.label(item, label)
        for name, (label, kind) in PROPERTIES.items():
            self.label(name, label)
            for link, space in (
                ("claim", ""),
                ("statementProperty", "statement/"),
                ("statementValue", "statement/value/"),
            ):
                self.add(ENTITY + name, NAMESPACE + link, rdflib.URIRef(PROP + space + name))
            self.add(ENTITY + name, NAMESPACE + "propertyType", rdflib.URIRef(NAMESPACE + kind))
            self.add(ENTITY + name, NAMESPACE + "directClaim", rdflib.URIRef(PROP + "direct/" + name))

    def add(self, subject: str, predicate: str, value: Any) -> None:
        self.graph.add((rdflib.URIRef(subject), rdflib.URIRef(predicate), value))

    def label(self, name: str, text: str) -> None:
        for language, label in (("en", text), ("de", "de:" + text)):
            self.add(ENTITY + name, str(rdflib.RDFS.label), rdflib.Literal(label, lang=language))

    def state(self, item: str, name: str, value: Any, best: bool = True, **node: Any) -> None:
        self.count += 1
        statement, full = f"{ENTITY}statement/s{self.count}", f"http://www.wikidata.org/value/v{self.count}"
        self.add(ENTITY + item, PROP + name, rdflib.URIRef(statement))
        self.add(statement, PROP + "statement/" + name, value)
        if best:
            self.add(ENTITY + item, PROP + "direct/" + name, value)
            self.add(statement, str(rdflib.RDF.type), rdflib.URIRef(NAMESPACE + "BestRank"))
        for key, known in node.items():
            self.add(statement, PROP + "statement/value/" + name, rdflib.URIRef(full))
            self.add(full, NAMESPACE + key, known)


def wiki_graph() -> Graph:
    xsd, uri, literal = rdflib.XSD, rdflib.URIRef, rdflib.Literal
    graph = Graph()
    graph.state("Q1", "P1", literal("1867-11-07T00:00:00Z", datatype=xsd.dateTime), timePrecision=literal(11))
    graph.state("Q1", "P1", literal("1868-01-01T00:00:00Z", datatype=xsd.dateTime), best=False)
    graph.state("Q1", "P2", uri(ENTITY + "Q2"))
    graph.state("Q1", "P3", uri(ENTITY + "Q3"))
    graph.state("Q1", "P8", literal("Marie"))
    graph.state("Q1", "P8", literal("Salomea"))
    graph.state("Q1", "P6", literal("n79-055056"))
    graph.state("Q4", "P4", literal("+8849", datatype=xsd.decimal), quantityUnit=uri(ENTITY + "Q5"))
    point = "http://www.opengis.net/ont/geosparql#wktLiteral"
    graph.state("Q4", "P5", literal("Point(86.925 27.988055555)", datatype=uri(point)))
    graph.state("Q6", "P7", uri(ENTITY + "Q7"))
    return graph


GRAPH = wiki_graph()


@dataclass
class Wikidata:
    override: Callable[[web.Request], web.StreamResponse | None] = lambda _: None
    asked: list[dict[str, str]] = field(default_factory=list)
    queries: list[str] = field(default_factory=list)
    delay: float = 0.0

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(self.delay)
        answer = self.override(request)
        if answer is not None:
            return answer
        if request.path == "/sparql":
            assert request.headers["Accept"] == "application/sparql-results+json"
            query = (await request.post())["query"]
            self.queries.append(str(query))
            found = GRAPH.graph.query(query).serialize(format="json")
            return web.Response(body=found, content_type="application/sparql-results+json")
        self.asked.append(dict(request.query))
        return web.json_response(self.search(dict(request.query)))

    def known(self, kind: str) -> dict[str, tuple[str, str]]:
        return ITEMS if kind == "item" else PROPERTIES

    def search(self, params: dict[str, str]) -> dict[str, Any]:
        found = [
            {
                "id": item,
                "title": item,
                "concepturi": ENTITY + item,
                "label": label,
                "description": description,
                "match": {"type": "label", "language": "en", "text": label},
            }
            for item, (label, description) in self.known(params["type"]).items()
            if label.lower().startswith(params["search"].lower())
        ]
        return {
            "searchinfo": {"search": params["search"]},
            "search": found[: int(params["limit"])],
            "success": 1,
        }


@pytest.fixture
def make(serve: Any) -> Callable[..., WikidataRetriever]:
    def start(server: Wikidata, **settings: Any) -> WikidataRetriever:
        base = serve(server)
        return WikidataRetriever(api_url=base + "/api", sparql_url=base + "/sparql", **settings)

    return start


Make = Callable[..., WikidataRetriever]


def test_facts_of_the_named_item_in_words_with_its_address(make: Make) -> None:
    doc = make(Wikidata()).invoke("Where was Marie Curie born?")[0]
    assert doc.page_content.startswith("Marie Curie (Polish and French physicist). ")
    for fact in ("date of birth: 7 November 1867.", "place of birth: Warsaw.", "spouse: Pierre Curie."):
        assert fact in doc.page_content
    assert (
        "given name: Marie; Salomea" in doc.page_content or "given name: Salomea; Marie" in doc.page_content
    )
    assert "n79" not in doc.page_content  # external ids are no facts
    assert doc.metadata == {
        "source": "Q1",
        "title": "Marie Curie",
        "url": "https://www.wikidata.org/wiki/Q1",
        "score": doc.metadata["score"],
        "retriever": "wikidata",
    }


def test_the_fact_nearest_to_the_query_comes_first(make: Make) -> None:
    docs = make(Wikidata(), max_chars=100).invoke("Who was the spouse of Marie Curie?", k=9)
    assert "spouse: Pierre Curie" in docs[0].page_content
    assert [doc.metadata["source"] for doc in docs][:2] == ["Q1", "Q1#2"]


def test_async_gives_the_same(make: Make) -> None:
    retriever = make(Wikidata())

    async def ask() -> Any:
        try:
            return await retriever.ainvoke("Marie Curie")
        finally:
            await retriever.aclose()

    assert asyncio.run(ask()) == retriever.invoke("Marie Curie")


def test_of_items_with_one_name_the_one_that_fits_the_query_is_chosen(make: Make) -> None:
    docs = make(Wikidata()).invoke('Who directed the film "Marie Curie"?')
    assert docs[0].metadata["source"] == "Q6"
    assert "director: Mervyn LeRoy" in docs[0].page_content


def test_quantities_have_units_and_places_directions(make: Make) -> None:
    text = make(Wikidata()).invoke("How high is Mount Everest?")[0].page_content
    assert "elevation above sea level: 8849 metre." in text
    assert "coordinate location: 27.9881° N, 86.925° E." in text


def test_several_items_take_turns(make: Make) -> None:
    docs = make(Wikidata()).invoke("Are Marie Curie and Mount Everest related?")
    assert [doc.metadata["source"] for doc in docs] == ["Q1", "Q4"]


def test_another_language_has_its_own_words(make: Make) -> None:
    text = make(Wikidata(), language="de").invoke("Marie Curie")[0].page_content
    assert "de:place of birth: de:Warsaw" in text


def test_nothing_named_or_known_finds_nothing(make: Make) -> None:
    server = Wikidata()
    assert make(server).invoke("what is it?") == []
    assert make(server).invoke("Zyxwv Qqqq") == []
    assert server.queries == []


def test_sparql_is_run_and_its_rows_are_told(make: Make) -> None:
    query = (
        "PREFIX p: <http://www.wikidata.org/prop/> PREFIX ps: <http://www.wikidata.org/prop/statement/>\n"
        "PREFIX rdfs: <http://www.w3.org/2000/01/rdf-schema#>\n"
        "SELECT ?person ?personLabel ?born WHERE { ?person p:P1/ps:P1 ?born ; rdfs:label ?personLabel "
        'FILTER(LANG(?personLabel) = "en") } ORDER BY ?born'
    )
    docs = make(Wikidata()).invoke(query)
    assert [doc.page_content for doc in docs] == [
        "person: Marie Curie; born: 7 November 1867",
        "person: Marie Curie; born: 1868",
    ]
    assert docs[0].metadata["url"] == "https://www.wikidata.org/wiki/Q1"
    assert docs[0].metadata["source"].startswith("sparql:")
    assert make(Wikidata()).invoke("ASK { ?s ?p ?o }")[0].page_content == "answer: yes"


def test_names_between_slashes_are_linked_and_items_in_the_answer_named(make: Make) -> None:
    server = Wikidata()
    (doc,) = make(server).invoke("SELECT ?answer WHERE { wd:/Marie Curie/ wdt:/place of birth/ ?answer }")
    assert doc.page_content == "answer: Warsaw"
    assert doc.metadata["url"] == "https://www.wikidata.org/wiki/Q2"
    assert "wd:Q1 wdt:P2 ?answer" in server.queries[0]
    asked = sorted((each["search"], each["type"]) for each in server.asked)  # both at once, in any order
    assert asked == [("Marie Curie", "item"), ("place of birth", "property")]


def test_a_name_that_cannot_be_linked_is_told(make: Make) -> None:
    server = Wikidata()
    with pytest.raises(RetrieverMisconfigured, match="Nobody"):
        make(server).invoke("SELECT ?answer WHERE { wd:/Nobody/ wdt:/spouse/ ?answer }")
    assert server.queries == []


@pytest.mark.parametrize("name", ["x> } SERVICE <http://evil/", "a\n} DROP ALL", "{}"])
def test_a_name_cannot_carry_sparql(name: str) -> None:
    assert names_in(f"SELECT ?a WHERE {{ wd:/{name}/ wdt:/spouse/ ?a }}") == [("wdt", "spouse")]


@pytest.mark.parametrize(
    "query",
    [
        "PREFIX x: <http://x/> INSERT DATA { x:a x:b x:c }",
        "PREFIX x: <http://x/> DELETE WHERE { ?s ?p ?o }",
        "SELECT ?s WHERE { SERVICE <http://10.0.0.1/steal> { ?s ?p ?o } }",
        "SELECT ?s WHERE { service silent ?where { ?s ?p ?o } }",
        "# SELECT\nDROP ALL",
        'SELECT ?s { ?s ?p """ " """ . SERVICE <http://evil/> { ?s ?p ?o } } #"',
    ],
)
def test_updates_and_calls_to_other_hosts_are_refused(query: str) -> None:
    with pytest.raises(RetrieverMisconfigured):
        checked(query)


def test_reading_queries_pass() -> None:
    for query in (
        "# comment\nPREFIX wd: <http://x#>\nSELECT * WHERE { ?s ?p ?o }",
        'ASK { ?s ?p "a service <http://x>" }',
        'SELECT ?x { SERVICE wikibase:label { bd:serviceParam wikibase:language "en" } }',
    ):
        assert checked(query) == query


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("Who is Marie Curie?", ["Marie Curie"]),
        (
            "Which is older, the Bank of England or Vincent van Gogh's house?",
            ["Bank of England", "Vincent van Gogh"],
        ),
        ('Who wrote "the old man" in Cuba?', ["the old man", "Cuba"]),
        ("Is Paris, France bigger than Berlin?", ["Paris", "France", "Berlin"]),
        ("population of australia", ["population australia"]),
        ("In 1969 Apollo 11 landed", ["Apollo 11"]),
        ("", []),
    ],
)
def test_names_in_a_query(query: str, names: list[str]) -> None:
    found = mentions(query)
    assert [name for name in found if name in names] == names


@pytest.mark.parametrize(
    ("value", "precision", "expected"),
    [
        ("1867-11-07T00:00:00Z", 11, "7 November 1867"),
        ("1867-11-00T00:00:00Z", 10, "November 1867"),
        ("1867-01-01T00:00:00Z", 11, "1 January 1867"),
        ("1867-01-01T00:00:00Z", 9, "1867"),
        ("1867-01-01T00:00:00Z", 0, "1867"),
        ("1860-01-01T00:00:00Z", 8, "1860s"),
        ("1801-01-01T00:00:00Z", 7, "19th century"),
        ("-0043-03-15T00:00:00Z", 11, "15 March 43 BCE"),
        ("-0500-01-01T00:00:00Z", 9, "500 BCE"),
        ("unknown", 11, "unknown"),
    ],
)
def test_dates_are_no_more_precise_than_they_are_known(value: str, precision: int, expected: str) -> None:
    assert date(value, precision) == expected


def test_places_south_and_west() -> None:
    assert place("Point(-43.2 -22.9)") == "22.9° S, 43.2° W"


def test_an_item_without_a_label_has_no_words() -> None:
    assert words({"value": {"type": "uri", "value": ENTITY + "Q99"}}) == ""
    assert words({"value": {"type": "uri", "value": "https://example.org/"}}) == "https://example.org/"


def test_what_is_sparql() -> None:
    assert is_sparql(" select ?x where { ?x ?y ?z }")
    assert is_sparql("ASK { ?x ?y ?z }")
    assert not is_sparql("Select the oldest of these towns")
    assert not is_sparql("Ask Jeeves founder")


def at(path: str, **kwargs: Any) -> Callable[[web.Request], web.Response | None]:
    return lambda request: web.Response(**kwargs) if request.path == path else None


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        (at("/api", text="<html>", content_type="text/html"), RetrieverBroken, "no JSON but text/html"),
        (at("/api", text='{"search": [{"label": "no id"}]}'), RetrieverBroken, "another shape"),
        (at("/api", text="[]"), RetrieverBroken, "another shape"),
        (
            at("/api", text='{"error": {"code": "badvalue", "info": "x"}}'),
            RetrieverUnavailable,
            "badvalue: x",
        ),
        (at("/api", text='{"error": {"code": "maxlag"}}'), RetrieverRateLimited, "busy"),
        (at("/sparql", status=500, text="timeout"), RetrieverUnavailable, "HTTP 500"),
        (at("/sparql", status=429, headers={"Retry-After": "60"}), RetrieverRateLimited, "HTTP 429"),
        (at("/sparql", text='{"results": {}}'), RetrieverBroken, "no SPARQL results"),
        (
            at("/sparql", text='{"results": {"bindings": [{"item": {}}]}}'),
            RetrieverBroken,
            "no SPARQL results",
        ),
    ],
)
def test_what_is_no_answer_is_an_error(
    make: Make, override: Any, error: type[RetrieverError], message: str
) -> None:
    with pytest.raises(error, match=message):
        make(Wikidata(override)).invoke("Marie Curie")


def test_a_silent_server_is_given_up_in_time(make: Make) -> None:
    with pytest.raises(RetrieverTimeout, match=r"within 0\.2 s"):
        make(Wikidata(delay=2), timeout=0.2).invoke("Marie Curie")


def test_an_id_that_is_no_item_never_reaches_a_query(make: Make) -> None:
    evil = json.dumps({"search": [{"id": "Q1 } DROP ALL", "label": "x"}]})
    server = Wikidata(at("/api", text=evil))
    assert make(server).invoke("Marie Curie") == []
    assert server.queries == []
