"""The search tool: any retrieval source of the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from veridical.strategies.tools.base import Searcher
from veridical.strategies.types import Evidence

if TYPE_CHECKING:
    from veridical.strategies.base import Context


class Search(Searcher):
    """Searches the source that the request names."""

    async def find(self, query: str, k: int, *, source: str, ctx: Context) -> list[Evidence]:
        """The source's passages, best first; the search is kept in the trace."""
        return await ctx.retrieve(query, source=source, k=k)
