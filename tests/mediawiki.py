"""A wiki that answers as the MediaWiki API documents (format=json, version 1); to be served on loopback."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

PAGES = {
    "Canberra": "Canberra is the capital city of Australia.\n\n\n== History ==\n"
    "The city was founded in 1913. Walter Burley Griffin won the design contest.\n\n"
    "== References ==\nGriffin, W. B. (1913). City plan.",
    "Sydney": "Sydney is the largest city in Australia.\n\n== Harbour ==\nThe Opera House opened in 1973.",
    "Mercury (planet)": "Mercury is the planet nearest to the Sun.",
    "Mercury (element)": "Mercury is a metal that is liquid at room temperature.",
    "Freddie Mercury": "Freddie Mercury sang for Queen.",
}
REDIRECTS = {"Capital of Australia": "Canberra", "Canberra, ACT": "Capital of Australia"}
AMBIGUOUS = {"Mercury": ["Mercury (planet)", "Mercury (element)", "Freddie Mercury", "Mercury (lost page)"]}


@dataclass
class MediaWiki:
    """Says what the real one would, or `override(params)` where that gives an answer."""

    override: Callable[[dict[str, str]], web.StreamResponse | None] = lambda _: None
    results: dict[str, list[str]] = field(default_factory=dict)
    asked: list[dict[str, str]] = field(default_factory=list)
    agents: set[str] = field(default_factory=set)
    delay: float = 0.0
    part: int = 10**6  # characters of an extract that one answer holds

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        params = dict(request.query)
        self.asked.append(params)
        self.agents.add(request.headers["User-Agent"])
        await asyncio.sleep(self.delay)
        return self.override(params) or web.json_response(self.answer(params))

    def answer(self, params: dict[str, str]) -> dict[str, Any]:
        if params.get("list") == "search":
            return self.search(params)
        title, query = params["titles"], dict[str, Any]()
        if title != title[:1].upper() + title[1:]:
            query["normalized"] = [{"from": title, "to": title[:1].upper() + title[1:]}]
            title = title[:1].upper() + title[1:]
        if "redirects" in params:
            hops = []
            while title in REDIRECTS:
                hops.append({"from": title, "to": REDIRECTS[title]})
                title = REDIRECTS[title]
            query |= {"redirects": hops} if hops else {}
        number, page, more = self.page(title, params)
        return {"batchcomplete": "", **more, "query": {**query, "pages": {number: page}}}

    def search(self, params: dict[str, str]) -> dict[str, Any]:
        words = set(params["srsearch"].lower().split())
        found = self.results.get(params["srsearch"])
        if found is None:
            found = [title for title in PAGES if words & set(title.lower().split())]
        limit = int(params["srlimit"])
        rows = [{"ns": 0, "title": title, "pageid": number(title)} for title in found[:limit]]
        more = {"continue": {"sroffset": limit, "continue": "-||"}} if len(found) > limit else {}
        return {
            "batchcomplete": "",
            **more,
            "query": {"searchinfo": {"totalhits": len(found)}, "search": rows},
        }

    def page(self, title: str, params: dict[str, str]) -> tuple[str, dict[str, Any], dict[str, Any]]:
        base = {"pageid": int(number(title)), "ns": 0, "title": title}
        prop = params["prop"]
        if title in AMBIGUOUS:
            items = "".join(
                f'<li><a href="/wiki/x">{option}</a>, a meaning</li>' for option in AMBIGUOUS[title]
            )
            contents = '<li class="toclevel-1 tocsection-1"><a href="#x">Contents</a></li>'
            html = f"<ul>{contents}{items}<li>no link</li></ul>"
            if prop == "revisions":
                more = {"continue": {"rvcontinue": "20200101|1", "continue": "||"}}
                return number(title), {**base, "revisions": [{"*": html}]}, more
            return number(title), {**base, "fullurl": url(title), "pageprops": {"disambiguation": ""}}, {}
        if title not in PAGES:
            return "-1", {"ns": 0, "title": title, "missing": ""}, {}
        if prop.startswith("info"):
            return number(title), {**base, "fullurl": url(title)}, {}
        revisions = [{"revid": 5, "parentid": 4}]
        if len(PAGES[title]) > self.part and "excontinue" not in params:
            return (
                number(title),
                {**base, "revisions": revisions},
                {"continue": {"excontinue": 1, "continue": "||"}},
            )
        return number(title), {**base, "extract": PAGES[title], "revisions": revisions}, {}


def number(title: str) -> str:
    return str(1000 + sum(map(ord, title)))


def url(title: str) -> str:
    return "https://wiki.example/wiki/" + title.replace(" ", "_")
