import asyncio
import os
import shutil
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever

from veridical.retrievers.errors import (
    RetrieverBroken,
    RetrieverMisconfigured,
    RetrieverTimeout,
    RetrieverUnavailable,
)
from veridical.retrievers.langchain import LangChainRetriever
from veridical.retrievers.secrets import Secret
from veridical.retrievers.testing import PAGES, QUESTIONS


class Theirs(BaseRetriever):
    documents: tuple[Any, ...] = (
        Document("One.", id="d1", metadata={"link": "https://x.example/1", "name": "First", "lang": "en"}),
        Document("Two.", metadata={"source": 7, "title": "Second", "score": 1}),
    )
    error: Exception | None = None
    seconds: float = 0

    def _get_relevant_documents(self, query: str, *, run_manager: Any, limit: int = 10) -> list[Document]:
        if self.error:
            raise self.error
        return list(self.documents[:limit])

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: Any, limit: int = 10
    ) -> list[Document]:
        await asyncio.sleep(self.seconds)
        return self._get_relevant_documents(query, run_manager=run_manager, limit=limit)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_their_metadata_becomes_ours_and_the_rest_stays(asynchronous: bool) -> None:
    retriever = LangChainRetriever(retriever=Theirs(), keys={"url": "link", "title": "name"}, name="theirs")
    docs = asyncio.run(retriever.ainvoke("q")) if asynchronous else retriever.invoke("q")
    assert docs[0].metadata == {
        "source": "d1",
        "title": "First",
        "url": "https://x.example/1",
        "score": None,
        "retriever": "theirs",
        "link": "https://x.example/1",
        "name": "First",
        "lang": "en",
    }
    assert (docs[1].metadata["source"], docs[1].metadata["score"]) == ("7", 1.0)


def test_k_cuts_the_result_or_is_passed_on() -> None:
    assert len(LangChainRetriever(retriever=Theirs(), k=1).invoke("q")) == 1
    assert len(LangChainRetriever(retriever=Theirs(), k_argument="limit").invoke("q", k=1)) == 1


@pytest.mark.parametrize(
    ("theirs", "error", "message"),
    [
        (
            Theirs(error=KeyError("no index")),
            RetrieverUnavailable,
            r"langchain \(Theirs\): KeyError: 'no index'",
        ),
        (Theirs(error=TimeoutError()), RetrieverTimeout, "no answer in time"),
        (Theirs(documents=("text",)), RetrieverBroken, "no list of documents"),
    ],
)
def test_whatever_they_raise_is_one_of_our_errors(
    theirs: Theirs, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        LangChainRetriever(retriever=theirs).invoke("q")
    with pytest.raises(error, match=message):
        asyncio.run(LangChainRetriever(retriever=theirs).ainvoke("q"))


def test_a_slow_one_is_given_up() -> None:
    with pytest.raises(RetrieverTimeout):
        asyncio.run(LangChainRetriever(retriever=Theirs(seconds=5), timeout=0.05).ainvoke("q"))


def test_loading_by_import_string() -> None:
    retriever = LangChainRetriever.load(
        "veridical.retrievers.testing:FakeRetriever", {"sources": ["a", "b"]}, k=1
    )
    assert [doc.metadata["source"] for doc in retriever.invoke("q")] == ["a"]
    same = LangChainRetriever.load("veridical.retrievers.testing:FakeRetriever", {"sources": ["a", "b"]})
    other = LangChainRetriever.load("veridical.retrievers.testing:FakeRetriever", {"sources": ["c"]})
    assert retriever.identity == same.identity != other.identity
    assert LangChainRetriever(retriever=Theirs()).identity != LangChainRetriever(retriever=Theirs()).identity


def test_a_secret_is_given_and_not_shown() -> None:
    def load(name: str, value: str) -> LangChainRetriever:
        return LangChainRetriever.load(
            "veridical.retrievers.testing:FakeRetriever", {"sources": [Secret(name, value)]}
        )

    retriever = load("FIRST_KEY", "sk-1")
    assert [doc.metadata["source"] for doc in retriever.invoke("q")] == ["sk-1"]
    assert "sk-1" not in retriever.identity + retriever.origin
    assert retriever.identity == load("FIRST_KEY", "sk-2").identity
    assert retriever.identity != load("SECOND_KEY", "sk-1").identity
    with pytest.raises(RetrieverMisconfigured) as caught:
        LangChainRetriever.load(
            "veridical.retrievers.testing:FakeRetriever", {"colour": Secret("FIRST_KEY", "sk-1")}
        )
    assert "ValidationError" in caught.value.message
    assert "sk-1" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("path", "kwargs", "message"),
    [
        ("nowhere", {}, "no import string"),
        ("nowhere.at_all:Thing", {}, "No module named 'nowhere'"),
        ("veridical.retrievers.testing:Nothing", {}, "has no 'Nothing'"),
        ("veridical.retrievers.testing:FakeRetriever.made", {}, "has no 'FakeRetriever.made'"),
        ("veridical.retrievers.testing:FakeRetriever", {"colour": 1}, "ValidationError"),
        ("builtins:dict", {}, "made a dict, not a langchain retriever"),
    ],
)
def test_what_cannot_be_loaded_is_named(path: str, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(RetrieverMisconfigured, match=message):
        LangChainRetriever.load(path, kwargs)


# --- a vector database in a process of its own


@pytest.fixture(scope="module")
def chroma(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A Chroma server on a loopback port."""
    pytest.importorskip("langchain_chroma", reason="langchain-chroma and its server are not installed")
    command = shutil.which("chroma", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if command is None:
        pytest.skip("the chroma command is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("chroma")
    options = ["--host", "127.0.0.1", "--port", str(port), "--path", str(folder)]
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen([command, "run", *options], stdout=log, stderr=log) as server,
    ):
        try:
            wait_for(port, server)
            yield port
        finally:
            server.terminate()


def wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end and server.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    pytest.fail("the Chroma server did not start")


@pytest.mark.live
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_vector_database_in_its_own_process_named_by_configuration_alone(chroma: int) -> None:
    from langchain_chroma import Chroma

    from veridical.retrievers.testing import BagOfWords

    pages = Chroma("pages", BagOfWords(), host="127.0.0.1", port=chroma)
    pages.add_texts(
        [page["text"] for page in PAGES],
        [{"doc": page["id"], "title": page["title"]} for page in PAGES],
        [page["id"] for page in PAGES],
    )
    retriever = LangChainRetriever.load(
        "langchain_chroma:Chroma",
        {
            "collection_name": "pages",
            "embedding_function": {"import": "veridical.retrievers.testing:BagOfWords"},
            "host": "127.0.0.1",
            "port": chroma,
        },
        name="chroma",
        keys={"source": "doc"},
        k=3,
    )
    docs = retriever.invoke("Which metal is liquid at room temperature?")
    assert docs[0].metadata["source"] == "mercury-element"
    assert (docs[0].metadata["title"], docs[0].metadata["retriever"]) == ("Mercury (element)", "chroma")
    assert len(docs) == 3
    assert len(retriever.invoke("planet", k=5)) == 5
    assert asyncio.run(retriever.ainvoke(QUESTIONS[0][0]))[0].metadata["source"] == "canberra"


@pytest.mark.live
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_server_that_is_gone_is_an_error() -> None:
    pytest.importorskip("langchain_chroma", reason="langchain-chroma and its server are not installed")
    with pytest.raises(RetrieverMisconfigured, match="langchain_chroma:Chroma: "):
        LangChainRetriever.load(
            "langchain_chroma:Chroma", {"collection_name": "pages", "host": "127.0.0.1", "port": 9}
        )
