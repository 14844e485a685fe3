"""Against a loopback server that answers as the MediaWiki API documents (format=json, version 1)."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from aiohttp import web
from pydantic import ValidationError

from veridical.retrievers.chunking import Chunker
from veridical.retrievers.errors import (
    RetrieverBroken,
    RetrieverError,
    RetrieverRateLimited,
    RetrieverTimeout,
    RetrieverUnavailable,
)
from veridical.retrievers.wikipedia import WikipediaRetriever, sections
from veridical.tests.mediawiki import PAGES, MediaWiki, number, url

wikipedia = pytest.importorskip("wikipedia", reason="needs the extra 'wikipedia'")

Make = Callable[..., WikipediaRetriever]


@pytest.fixture
def make(serve: Any) -> Iterator[Make]:
    made: list[WikipediaRetriever] = []

    def start(wiki: MediaWiki, **settings: Any) -> WikipediaRetriever:
        made.append(WikipediaRetriever(api_url=serve(wiki) + "/w/api.php", **{"rate": 1000, **settings}))
        return made[-1]

    yield start
    for retriever in made:
        retriever.close()


def titles(docs: list[Any]) -> list[str]:
    return [doc.metadata["title"] for doc in docs]


def test_the_best_passages_of_the_pages_found(make: Make) -> None:
    wiki = MediaWiki()
    docs = make(wiki, chunker=Chunker(max_chars=60), k=2).invoke("Canberra design contest")
    assert docs[0].page_content == "Walter Burley Griffin won the design contest."
    assert docs[0].metadata == {
        "source": f"wikipedia:en:{number('Canberra')}#3",
        "title": "Canberra",
        "url": url("Canberra"),
        "score": docs[0].metadata["score"],
        "retriever": "wikipedia",
        "section": "History",
    }
    assert docs[0].metadata["score"] > docs[1].metadata["score"]
    assert all(request["format"] == "json" and request["maxlag"] == "5" for request in wiki.asked)


def test_async_gives_the_same(make: Make) -> None:
    retriever = make(MediaWiki())
    assert asyncio.run(retriever.ainvoke("Sydney harbour")) == retriever.invoke("Sydney harbour")


def test_reference_lists_are_no_evidence(make: Make) -> None:
    docs = make(MediaWiki(), k=20).invoke("Canberra Griffin city plan")
    assert "References" not in {doc.metadata["section"] for doc in docs}


def test_sections_of_a_page_text() -> None:
    text = (
        "Lead.\n\n== One ==\nA.\n\n=== Two = half ===\nB == not a heading.\n== Empty ==\n\n== See also ==\nX"
    )
    assert [(s.heading, s.text) for s in sections(text)] == [
        ("", "Lead."),
        ("One", "A."),
        ("Two = half", "B == not a heading."),
    ]


def test_redirects_are_followed_to_the_page_with_its_own_title(make: Make) -> None:
    wiki = MediaWiki(results={"q": ["Capital of Australia"]})
    assert titles(make(wiki).invoke("q"))[0] == "Canberra"
    wiki = MediaWiki(results={"q": ["canberra, ACT"]})  # normalized, then redirected twice
    assert titles(make(wiki).invoke("q"))[0] == "Canberra"


def test_a_page_found_under_two_names_is_given_once(make: Make) -> None:
    wiki = MediaWiki(results={"q": ["Sydney", "Capital of Australia", "Canberra"]})
    docs = make(wiki, k=20).invoke("q")
    assert len({doc.metadata["source"] for doc in docs}) == len(docs) == 4


def test_missing_pages_are_passed_over(make: Make) -> None:
    wiki = MediaWiki(results={"q": ["Deleted page", "Sydney"]})
    assert set(titles(make(wiki).invoke("q"))) == {"Sydney"}
    assert make(MediaWiki(results={"q": ["Deleted page"]})).invoke("q") == []


def test_nothing_found_is_nothing_and_content_words_are_tried_first(make: Make) -> None:
    wiki = MediaWiki(results={"what is the qqqq": [], "qqqq": []})
    assert make(wiki).invoke("what is the qqqq") == []
    assert [request["srsearch"] for request in wiki.asked] == ["what is the qqqq", "qqqq"]
    assert make(wiki).invoke("   ") == []


def test_of_an_ambiguous_title_the_meanings_nearest_to_the_query_are_read(make: Make) -> None:
    query = "Which planet is Mercury?"
    wiki = MediaWiki(results={query: ["Mercury"]})
    docs = make(wiki, options=1).invoke(query)
    assert titles(docs) == ["Mercury (planet)"]
    assert titles(make(wiki, options=0).invoke(query)) == []


def test_an_option_without_a_page_is_passed_over(make: Make) -> None:
    wiki = MediaWiki(results={"Mercury lost page": ["Mercury"]})
    assert titles(make(wiki, options=1).invoke("Mercury lost page")) == []


def test_an_extract_that_comes_in_a_second_answer_is_waited_for(make: Make) -> None:
    wiki = MediaWiki(part=10)
    assert make(wiki).invoke("Sydney")[0].page_content == "Sydney is the largest city in Australia."
    assert "1" in {request.get("excontinue") for request in wiki.asked}


def test_search_results_are_not_continued_beyond_what_is_needed(make: Make) -> None:
    wiki = MediaWiki(results={"q": list(PAGES)})
    make(wiki, pages=2).invoke("q")
    assert [request["srlimit"] for request in wiki.asked if "srlimit" in request] == ["2"]
    assert len(wiki.asked) == 1 + 2 * 2


def busy(times: int, response: Callable[[], web.Response]) -> Callable[[dict[str, str]], web.Response | None]:
    left = [times]

    def answer(_: dict[str, str]) -> web.Response | None:
        left[0] -= 1
        return response() if left[0] >= 0 else None

    return answer


def maxlag(retry_after: str = "0") -> web.Response:
    error = {"code": "maxlag", "info": "Waiting for 10.0.0.1: 6.2 seconds lagged.", "lag": 6.2}
    return web.json_response({"error": error}, headers={"Retry-After": retry_after})


def too_many(retry_after: str = "0") -> web.Response:
    return web.Response(
        status=429, text="<html>Too many requests</html>", headers={"Retry-After": retry_after}
    )


@pytest.mark.parametrize("response", [maxlag, too_many])
def test_a_short_pause_that_is_asked_for_is_kept(make: Make, response: Callable[[], web.Response]) -> None:
    assert titles(make(MediaWiki(busy(1, response))).invoke("Sydney"))[0] == "Sydney"


@pytest.mark.parametrize("response", [maxlag, too_many])
@pytest.mark.parametrize("retry_after", ["0", "120"])
def test_a_long_or_repeated_pause_is_an_error(make: Make, response: Any, retry_after: str) -> None:
    wiki = MediaWiki(lambda _: response(retry_after))
    with pytest.raises(RetrieverRateLimited) as caught:
        make(wiki).invoke("Sydney")
    assert caught.value.retry_after == float(retry_after)
    assert len(wiki.asked) == (2 if retry_after == "0" else 1)


def answering(**kwargs: Any) -> Callable[[dict[str, str]], web.Response]:
    return lambda _: web.Response(**kwargs)


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        (
            answering(text="<html>oops</html>", content_type="text/html"),
            RetrieverBroken,
            "no JSON but text/html",
        ),
        (answering(status=503, text="<html>down</html>"), RetrieverUnavailable, "HTTP 503"),
        (answering(status=403, text="blocked"), RetrieverUnavailable, "HTTP 403"),
        (answering(text="[1]", content_type="application/json"), RetrieverBroken, "no JSON object"),
        (answering(text='{"query": {}}'), RetrieverBroken, "another shape"),
        (answering(text='{"query": {"search": [{}]}}'), RetrieverBroken, "another shape"),
        (answering(text='{"batchcomplete": ""}'), RetrieverBroken, "another shape"),
        (answering(text='{"error": {"code": "readonly", "info": "x"}}'), RetrieverUnavailable, "readonly: x"),
        (answering(text='{"query": ' + " " * 9_000_000), RetrieverBroken, "more than 8,388,608 bytes"),
    ],
)
@pytest.mark.parametrize("asynchronous", [False, True])
def test_what_is_no_answer_is_an_error(
    make: Make, override: Any, error: type[RetrieverError], message: str, asynchronous: bool
) -> None:
    retriever = make(MediaWiki(override))
    with pytest.raises(error, match=message):
        asyncio.run(retriever.ainvoke("Sydney")) if asynchronous else retriever.invoke("Sydney")


def test_no_server_is_an_error() -> None:
    retriever = WikipediaRetriever(api_url="http://127.0.0.1:9/w/api.php")
    with pytest.raises(RetrieverUnavailable, match="cannot be reached"):
        retriever.invoke("Sydney")
    retriever.close()


def test_a_page_that_breaks_is_left_out_with_a_warning(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    def override(params: dict[str, str]) -> web.Response | None:
        broken = params.get("titles") == "Canberra"
        return web.Response(text="<html>", content_type="text/html") if broken else None

    with caplog.at_level(logging.WARNING):
        docs = make(MediaWiki(override, results={"q": ["Canberra", "Sydney"]})).invoke("q")
    assert set(titles(docs)) == {"Sydney"}
    assert "no JSON" in caplog.text


def test_redirects_in_a_circle_end(make: Make) -> None:
    def override(params: dict[str, str]) -> web.Response | None:
        if "titles" not in params:
            return None
        here, there = ("A", "B") if params["titles"] == "A" else ("B", "A")
        pages = {"1": {"pageid": 1, "title": there, "fullurl": "x"}}
        return web.json_response({"query": {"redirects": [{"from": here, "to": there}], "pages": pages}})

    with pytest.raises(RetrieverBroken, match="circles"):
        make(MediaWiki(override, results={"q": ["A"]})).invoke("q")


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_silent_server_is_given_up_in_time(make: Make, asynchronous: bool) -> None:
    retriever = make(MediaWiki(delay=3), request_timeout=0.2, timeout=1)
    start = time.perf_counter()
    with pytest.raises(RetrieverTimeout):
        asyncio.run(retriever.ainvoke("Sydney")) if asynchronous else retriever.invoke("Sydney")
    assert time.perf_counter() - start < 1.5


async def drip(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    try:
        for _ in range(100):
            await response.write(b" ")
            await asyncio.sleep(0.05)
    except (ConnectionError, asyncio.CancelledError):
        pass
    return response


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_dripping_server_is_given_up_in_time(serve: Any, asynchronous: bool) -> None:
    retriever = WikipediaRetriever(api_url=serve(drip) + "/w/api.php", request_timeout=0.3, timeout=0.5)
    start = time.perf_counter()
    with pytest.raises(RetrieverTimeout):
        asyncio.run(retriever.ainvoke("Sydney")) if asynchronous else retriever.invoke("Sydney")
    assert time.perf_counter() - start < 1.5
    retriever.close()


def test_the_loop_is_not_held_while_threads_wait(make: Make) -> None:
    retriever = make(MediaWiki(delay=0.2))

    async def both() -> int:
        search = asyncio.create_task(retriever.ainvoke("Sydney"))
        ticks = 0
        while not search.done():
            await asyncio.sleep(0.01)
            ticks += 1
        await search
        return ticks

    assert asyncio.run(both()) > 20


def test_requests_keep_the_rate(make: Make) -> None:
    retriever = make(MediaWiki(results={"q": ["Sydney", "Canberra"]}), rate=20)
    start = time.perf_counter()
    retriever.invoke("q")  # five requests, four gaps
    assert time.perf_counter() - start > 4 / 20


def test_every_search_asks_anew_since_the_packages_caches_are_passed(make: Make) -> None:
    wiki = MediaWiki()
    retriever = make(wiki)
    retriever.invoke("Sydney")
    once = len(wiki.asked)
    retriever.invoke("Sydney")
    assert len(wiki.asked) == 2 * once


def test_two_languages_at_once_do_not_meet_and_the_package_is_left_as_it_was(make: Make) -> None:
    before = (wikipedia.wikipedia.API_URL, wikipedia.wikipedia._wiki_request, wikipedia.wikipedia.USER_AGENT)
    german, english = MediaWiki(delay=0.02), MediaWiki(delay=0.02)
    retrievers = [
        make(german, language="de", user_agent="one"),
        make(english, language="en", user_agent="two"),
    ]
    threads = [threading.Thread(target=r.invoke, args=("Sydney",)) for r in retrievers * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(german.asked) == len(english.asked) == 12
    assert (german.agents, english.agents) == ({"one"}, {"two"})
    assert before == (
        wikipedia.wikipedia.API_URL,
        wikipedia.wikipedia._wiki_request,
        wikipedia.wikipedia.USER_AGENT,
    )


def test_the_default_address_is_https_in_the_language_of_the_retriever() -> None:
    assert WikipediaRetriever(language="fr").identity.startswith(
        "wikipedia:https://fr.wikipedia.org/w/api.php:"
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"api_url": "http://wiki.example/w/api.php"},
        {"language": "en.evil.example/"},
        {"language": ""},
        {"k": 0},
    ],
)
def test_unsafe_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        WikipediaRetriever(**settings)


def test_a_request_cannot_change_the_language() -> None:
    retriever = WikipediaRetriever()
    with pytest.raises(ValidationError, match="frozen"):
        retriever.language = "de"
    with pytest.raises(TypeError, match="language"):
        retriever.invoke("Sydney", language="de")


def test_a_long_query_is_cut_to_what_the_search_takes(make: Make) -> None:
    wiki = MediaWiki()
    make(wiki).invoke("Sydney " * 200)
    assert len(wiki.asked[0]["srsearch"]) <= 300
