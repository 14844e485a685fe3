"""Web search through a SearxNG server, or through an API of Tavily's shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from langchain_core.documents import Document
from pydantic import Field, SecretStr

from veridical.retrievers.base import document
from veridical.retrievers.errors import RetrieverBroken, RetrieverUnavailable
from veridical.retrievers.remote import RemoteRetriever


class WebRetriever(RemoteRetriever):
    """What a web search finds: page extracts with their addresses.

    `url` is the search endpoint (SearxNG: `https://HOST/search`, with JSON among its formats). `api_key` is
    sent as a bearer token. `language` and `safe` go to SearxNG, `options` are further fields of the request.
    """

    name: str | None = "web"
    url: str = Field(pattern=r"^https?://\S+$")
    api: Literal["searxng", "tavily"] = "searxng"
    api_key: SecretStr | None = None
    language: str = "en"
    safe: int = Field(default=1, ge=0, le=2)
    options: Mapping[str, str | int | bool] = Field(default_factory=dict)
    max_chars: int = Field(default=2000, ge=100)

    @property
    def identity(self) -> str:
        """The endpoint and what is sent with each query."""
        sent = f"{self.language}:{self.safe}:{sorted(self.options.items())}:{self.max_chars}"
        return f"web:{self.api}:{self.url}:{sent}"

    async def ask(self, query: str, k: int) -> list[Document]:
        """Search, and give each address once."""
        if not query.strip():
            return []
        answer = await (self._searxng(query) if self.api == "searxng" else self._tavily(query, k))
        return self._documents(self._results(answer))[:k]

    async def _searxng(self, query: str) -> Any:
        params = {"q": query, "format": "json", "language": self.language, "safesearch": str(self.safe)}
        params |= {key: str(value) for key, value in self.options.items()}
        try:
            return await self.request("GET", self.url, params=params, headers=self._key())
        except RetrieverUnavailable as error:
            if error.message.endswith("HTTP 403"):  # how SearxNG says that JSON is switched off
                hint = "403: a SearxNG server must have json among its search formats"
                raise RetrieverUnavailable(f"{self.get_name()} answered HTTP {hint}") from error
            raise

    async def _tavily(self, query: str, k: int) -> Any:
        body = {"query": query, "max_results": k, **self.options}
        return await self.request("POST", self.url, body=body, headers=self._key())

    def _key(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api_key.get_secret_value()}"} if self.api_key else {}

    def _results(self, answer: Any) -> list[Mapping[str, Any]]:
        found = answer.get("results") if isinstance(answer, dict) else None
        if not isinstance(found, list) or not all(isinstance(result, dict) for result in found):
            raise RetrieverBroken(f"{self.get_name()} sent no results", retriever=self.get_name())
        return found

    def _documents(self, results: Sequence[Mapping[str, Any]]) -> list[Document]:
        """One document per address that has a text; a result without one says nothing."""
        docs: dict[str, Document] = {}
        for result in results:
            url = str(result.get("url") or "")
            text = str(result.get("content") or "").strip()[: self.max_chars]
            score = result.get("score")
            if url.startswith(("http://", "https://")) and text:
                docs.setdefault(
                    url,
                    document(
                        text,
                        source=url,
                        title=str(result.get("title") or ""),
                        url=url,
                        score=float(score) if isinstance(score, int | float) else None,
                        retriever=self.get_name(),
                    ),
                )
        return list(docs.values())
