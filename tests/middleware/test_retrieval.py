"""Evidence through the proxy: a real index behind it, annotations and passages in the answer."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from langchain_core.callbacks import AsyncCallbackHandler

from veridical.middleware.retrieval import Source
from veridical.retrievers.index import build
from veridical.retrievers.testing import FakeRetriever
from veridical.strategies.errors import ConfigError, RetrievalFailed
from veridical.tests.conftest import Serve
from veridical.tests.proxy import Proxy
from veridical.tests.upstream import Fact, Say, Upstream

PAGES = [
    {
        "id": "nile",
        "title": "Nile",
        "text": "The Nile flows through Cairo.",
        "url": "https://example.org/nile",
    },
    {"id": "seine", "title": "Seine", "text": "The Seine flows through Paris."},
    {"id": "thames", "title": "Thames", "text": "The Thames flows through London."},
]
QUESTION = "Which river flows through Cairo?"
FAKE = "veridical.retrievers.testing:FakeRetriever"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("index")
    (home / "pages.jsonl").write_text("\n".join(map(json.dumps, PAGES)))
    build(home / "pages.jsonl", home / "index")
    return home / "index"


@pytest.fixture
def grounded(serve: Serve, folder: Path) -> Proxy:
    return serve(retrievers={"pages": {"type": "index", "path": str(folder)}})


def test_rag_cites_what_was_retrieved(grounded: Proxy, upstream: Upstream) -> None:
    upstream.on(**{"rag/answer": Say("It is the Nile [1]. It is long.")})
    answer = grounded.ask(QUESTION, model="m1+rag(k=2)").model_dump()
    text = answer["choices"][0]["message"]["content"]
    (mark,) = answer["choices"][0]["message"]["annotations"]
    cited = mark["url_citation"]
    assert text[cited["start_index"] : cited["end_index"]] == "[1]"
    assert cited["url"] == "https://example.org/nile"
    trail = answer["veridical"]
    assert trail["evidence"][0]["id"] == "nile"
    assert trail["evidence"][0]["text"] == PAGES[0]["text"]
    assert [each["evidence"] for each in trail["support"]] == [["nile"], []]
    assert "The Nile flows through Cairo." in upstream.chats[0].prompt
    assert trail["retrievals"][0]["query"] == QUESTION


def test_a_stream_ends_with_the_annotations(grounded: Proxy, upstream: Upstream) -> None:
    upstream.on(**{"rag/answer": Say("It is the Nile [1].")})
    events = grounded.chat(
        model="m1+rag", stream=True, messages=[{"role": "user", "content": QUESTION}]
    ).events
    (found,) = [
        e["choices"][0]["delta"]["annotations"] for e in events[:-1] if "annotations" in json.dumps(e)
    ]
    assert found[0]["url_citation"]["title"] == "Nile"
    assert events[-2]["veridical"]["evidence"][0]["id"] == "nile"


def test_cove_answers_its_checks_from_evidence(grounded: Proxy, upstream: Upstream) -> None:
    fact = Fact("The Seine flows through Cairo.", QUESTION, "The Nile.", "inconsistent", "The Nile does.")
    upstream.cove("The Seine.", fact, final="The Nile.")
    answer = grounded.ask("River?", model="m1+cove(execute_with=retrieval,k=1)")
    assert answer.choices[0].message.content == "The Nile."
    (claim,) = answer.veridical["claims"]
    assert claim["evidence"] == ["nile"]
    assert [each["id"] for each in answer.veridical["evidence"]] == ["nile"]


def test_without_a_source_the_request_is_refused_by_name(proxy: Proxy, upstream: Upstream) -> None:
    response = proxy.chat(model="m1+rag")
    assert response.status == 400
    assert "no retrieval source 'default'" in response.error["message"]
    assert upstream.chats == []


def test_a_source_that_cannot_be_opened_degrades_to_the_draft(
    serve: Serve, upstream: Upstream, tmp_path: Path
) -> None:
    broken = serve(retrievers={"pages": {"type": "index", "path": str(tmp_path / "none")}})
    upstream.cove("The Seine.", Fact("x", "y?"))
    answer = broken.ask("River?", model="m1+cove(execute_with=retrieval)")
    assert answer.choices[0].message.content == "The Seine."
    assert answer.veridical["status"] == "degraded"
    assert "retrieval_failed" in answer.veridical["notes"][0]
    assert broken.chat(model="m1+rag").status == 502


def test_a_source_that_hangs_is_given_up(serve: Serve) -> None:
    hangs = {"type": "langchain", "retriever_class": FAKE, "kwargs": {"delay": 600.0}, "timeout_s": 0.1}
    response = serve(retrievers={"pages": hangs}).chat(model="m1+rag")
    assert response.status == 502
    assert "did not answer in" in response.error["message"]


def test_cok_corrects_its_reasoning_from_the_domains_sources(
    serve: Serve, upstream: Upstream, folder: Path
) -> None:
    def chain(answer: str) -> Say:
        steps = ["The Seine flows through Cairo.", "So the answer is the Seine."]
        return Say(json.dumps({"steps": steps, "answer": answer}))

    pages = {"type": "index", "path": str(folder)}
    works = {"description": "rivers and towns", "sources": ["pages"]}
    stars = {"description": "planets and stars", "sources": ["sky"]}
    grounded = serve(retrievers={"pages": pages, "sky": pages}, domains={"earth": works, "space": stars})
    upstream.on(
        **{
            "cok/reason": [chain("Seine"), chain("Nile"), chain("Thames")],
            "cok/domains": Say('{"domains": ["earth"]}'),
            "cok/correct": [
                Say('{"passage": 1, "statement": "The Nile flows through Cairo."}'),
                Say('{"passage": 0, "statement": "none"}'),
            ],
            "cok/next": Say("The Nile is the river of Cairo."),
            "cok/query": Say("Which river flows through Cairo?"),
            "cok/answer": Say("The Nile [1]."),
        }
    )
    answer = grounded.ask(QUESTION, model="m1+cok(samples=3,k=1)").model_dump()
    assert answer["choices"][0]["message"]["content"] == "The Nile [1]."
    trail = answer["veridical"]
    assert trail["calls"] == 3 + 1 + 2 * 2 + 1
    assert [claim["verdict"] for claim in trail["claims"]] == ["refuted", "not_enough_info"]
    (mark,) = answer["choices"][0]["message"]["annotations"]
    assert mark["url_citation"]["url"] == "https://example.org/nile"
    assert {each["source"] for each in trail["retrievals"]} == {"pages", "sky"}


def test_a_domain_of_an_unknown_source_stops_the_start(serve: Serve, folder: Path) -> None:
    domain = {"description": "x", "sources": ["pagse"]}
    with pytest.raises(ConfigError, match=r"domains\.d\.sources.*'pagse'.*pages"):
        serve(retrievers={"pages": {"type": "index", "path": str(folder)}}, domains={"d": domain})


def test_who_listens_hears_of_a_search_and_nobody_gets_other_documents() -> None:
    class Listener(AsyncCallbackHandler):
        queries: list[str]

        async def on_retriever_start(self, serialized: Any, query: str, **_: Any) -> None:
            self.queries.append(query)

    async def main() -> None:
        listener = Listener()
        listener.queries = []
        source = Source("pages", lambda: FakeRetriever(sources=("nile", "seine")))
        unheard = await source.search("one", 2)
        assert await source.search("two", 2, [listener]) == unheard
        assert listener.queries == ["two"]

    asyncio.run(main())


def test_a_source_that_bounds_itself_may_run_out_of_time() -> None:
    class Late(FakeRetriever):
        async def afind(self, query: str, k: int, callbacks: Any = None) -> Any:
            raise TimeoutError

    async def main() -> None:
        with pytest.raises(RetrievalFailed, match="'pages' did not answer in time"):
            await Source("pages", Late, timeout_s=None)("one", 2)

    asyncio.run(main())
