"""A third party's retriever that needs a key, and is careless with it; loaded by import string."""

from typing import Any

from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever


class Client:
    """Something that a retriever is given, made from a key of its own."""

    def __init__(self, api_key: str) -> None:
        self.api_key = api_key


class Keyed(BaseRetriever):
    api_key: str
    client: Any = None
    fails: bool = False

    @classmethod
    def broken(cls, **arguments: Any) -> "Keyed":
        raise ValueError(f"made with {arguments}")

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        if self.fails:
            raise RuntimeError(f"GET /search?key={self.api_key}")
        right = (self.api_key, self.client.api_key) == ("sk-first", "sk-second")
        return [Document("The keys fit.", metadata={"source": "keyed"})] if right else []
