"""The `wikipedia` package behind an adapter: its parsing, none of its state.

The package keeps its language, API address and user agent in module globals, defaults to http, waits
without end and caches without limit. The adapter loads a copy of its module for itself, gives that
copy a transport of our own, and calls its functions past their caches. So two retrievers with different
languages do not meet, and nothing that a request says changes either.
"""

from __future__ import annotations

import functools
import importlib.util
import threading
import time
from dataclasses import dataclass, field
from http.cookiejar import DefaultCookiePolicy
from types import ModuleType
from typing import Any

from veridical.retrievers.errors import (
    RetrieverBroken,
    RetrieverMisconfigured,
    RetrieverRateLimited,
    RetrieverTimeout,
    RetrieverUnavailable,
)
from veridical.retrievers.remote import LONGEST_PAUSE, decode, pause, refusal

#: Requests that one step may take: a redirect that leads in a circle ends here.
MOST_REQUESTS = 12
#: Replication lag, in seconds, above which we ask Wikimedia to turn us away ("maxlag", API:Etiquette).
MAX_LAG = 5


class Deadline:
    """A moment that a chain of blocking calls must not outlast; `cancel` brings it forward to now."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Let the work stop at its next step."""
        self._cancelled.set()

    def left(self, who: str) -> float:
        """The seconds left; raises `RetrieverTimeout` when there are none."""
        left = 0.0 if self._cancelled.is_set() else self._end - time.monotonic()
        if left <= 0:
            raise RetrieverTimeout(f"{who}: no answer in time", retriever=who)
        return left

    def sleep(self, seconds: float, who: str) -> None:
        """Wait, unless the deadline comes first: then raise at once."""
        if seconds >= self.left(who) or self._cancelled.wait(seconds):
            raise RetrieverTimeout(f"{who}: no answer in time", retriever=who)


class Pace:
    """At most `rate` steps a second, over all threads; first come, first served."""

    def __init__(self, rate: float) -> None:
        self._gap = 1 / rate
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self, deadline: Deadline, who: str) -> None:
        """Take the next free moment and wait for it."""
        with self._lock:
            now = time.monotonic()
            moment = max(now, self._next)
            self._next = moment + self._gap
        deadline.sleep(moment - now, who)


@dataclass(frozen=True, slots=True)
class Page:
    """An article as plain text with `== headings ==`."""

    id: str
    title: str
    url: str
    text: str


@dataclass(frozen=True, slots=True)
class Ambiguous:
    """A disambiguation page: what its title may mean."""

    title: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class MediaWiki:
    """One wiki, seen through the `wikipedia` package. Blocking, and safe to use from many threads."""

    api_url: str
    user_agent: str
    timeout: float = 5.0
    rate: float = 5.0
    max_bytes: int = 8 * 1024 * 1024
    retries: int = 1
    who: str = "wikipedia"
    _local: threading.local = field(default_factory=threading.local, repr=False, compare=False)
    _pace: Pace = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_pace", Pace(self.rate))

    @functools.cached_property
    def _session(self) -> Any:
        import requests

        session = requests.Session()
        session.max_redirects = 3
        # Without cookies nothing in a session changes, and threads may share it.
        session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        return session

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    @functools.cached_property
    def _module(self) -> ModuleType:
        found = importlib.util.find_spec("wikipedia")
        spec = found and importlib.util.find_spec("wikipedia.wikipedia")
        if not spec or not spec.loader or not spec.origin:
            raise RetrieverMisconfigured("Wikipedia needs an extra: pip install 'veridical[wikipedia]'")
        copy = importlib.util.spec_from_file_location("wikipedia._for_veridical", spec.origin)
        if copy is None or copy.loader is None:
            raise RetrieverMisconfigured("The wikipedia package cannot be loaded from a file")
        module = importlib.util.module_from_spec(copy)
        copy.loader.exec_module(module)
        parser = functools.partial(module.BeautifulSoup, features="html.parser")
        vars(module).update(API_URL=self.api_url, _wiki_request=self._request, BeautifulSoup=parser)
        return module

    def search(self, query: str, count: int, deadline: Deadline) -> list[str]:
        """The titles that the wiki's own search finds, best first."""
        self._begin(deadline)
        try:
            titles = self._module.search.fn(query, results=count)
        except (KeyError, TypeError, AttributeError) as error:
            raise self._broken(error) from error
        return [title for title in titles if isinstance(title, str)]

    def page(self, title: str, deadline: Deadline) -> Page | Ambiguous | None:
        """The article of that title, redirects followed; None where there is none."""
        self._begin(deadline)
        module = self._module
        try:
            page = module.WikipediaPage(title)
            return Page(str(page.pageid), str(page.title), str(page.url), str(page.content))
        except module.PageError:
            return None
        except module.DisambiguationError as ambiguous:
            return Ambiguous(title, tuple(map(str, ambiguous.options)))
        except (KeyError, IndexError, TypeError, AttributeError, AssertionError) as error:
            # The package reads answers without looking whether they have the shape it expects.
            raise self._broken(error) from error

    def _begin(self, deadline: Deadline) -> None:
        self._local.deadline, self._local.requests = deadline, 0

    def _broken(self, error: Exception) -> RetrieverBroken:
        message = f"{self.who} sent an answer of another shape ({type(error).__name__}: {error})"
        return RetrieverBroken(message, retriever=self.who)

    def _request(self, params: dict[str, Any]) -> dict[str, Any]:
        """What the package calls for every request. Extracts that come in parts are put together."""
        asked = {"action": "query", **params, "format": "json", "maxlag": MAX_LAG}
        answer = self._get(asked)
        more = answer
        while isinstance(more.get("continue"), dict) and "excontinue" in more["continue"]:
            more = self._get({**asked, **more["continue"]})
            for number, page in more.get("query", {}).get("pages", {}).items():
                answer["query"]["pages"].setdefault(number, {}).update(page)
        return answer

    def _get(self, params: dict[str, Any]) -> dict[str, Any]:
        for left in range(self.retries, -1, -1):
            try:
                return self._once(params)
            except RetrieverRateLimited as limited:
                wait = 1.0 if limited.retry_after is None else limited.retry_after
                if not left or wait > LONGEST_PAUSE:
                    raise
                self._local.deadline.sleep(wait, self.who)
        raise AssertionError("unreachable")

    def _once(self, params: dict[str, Any]) -> dict[str, Any]:
        self._local.requests += 1
        if self._local.requests > MOST_REQUESTS:
            raise RetrieverBroken(f"{self.who} leads in circles", retriever=self.who)
        self._pace.wait(self._local.deadline, self.who)
        status, headers, body = self._fetch(params)
        error = refusal(status, headers.get("Retry-After"), self.who)
        if error:
            raise error
        answer = decode(body, str(headers.get("Content-Type", "")), self.who)
        if not isinstance(answer, dict):
            raise RetrieverBroken(f"{self.who} sent no JSON object", retriever=self.who)
        self._refuse(answer.get("error"), headers.get("Retry-After"))
        return answer

    def _refuse(self, error: Any, retry_after: str | None) -> None:
        """The API says what is wrong in the body of a 200."""
        if not error:
            return
        code = str(error.get("code", "")) if isinstance(error, dict) else str(error)
        if code in ("maxlag", "ratelimited"):
            wait = pause(retry_after)
            raise RetrieverRateLimited(f"{self.who} is busy ({code})", retriever=self.who, retry_after=wait)
        reason = str(error.get("info", ""))[:200] if isinstance(error, dict) else ""
        raise RetrieverUnavailable(f"{self.who} refused: {code}: {reason}", retriever=self.who)

    def _fetch(self, params: dict[str, Any]) -> tuple[int, Any, bytes]:
        import requests

        wait = min(self.timeout, self._local.deadline.left(self.who))
        try:
            with self._session.get(
                self.api_url,
                params=params,
                headers={"User-Agent": self.user_agent},
                timeout=wait,
                stream=True,
            ) as response:
                return response.status_code, response.headers, self._read(response)
        except requests.Timeout as error:
            raise RetrieverTimeout(f"{self.who}: no answer within {wait:g} s", retriever=self.who) from error
        except requests.RequestException as error:
            reason = type(error).__name__
            raise RetrieverUnavailable(
                f"{self.who} cannot be reached ({reason})", retriever=self.who
            ) from error

    def _read(self, response: Any) -> bytes:
        """The body, in pieces as they come: neither a long nor a dripping one holds us up."""
        import urllib3

        parts: list[bytes] = []
        size = 0
        try:
            while part := response.raw.read1(65536, decode_content=True):
                parts.append(part)
                size += len(part)
                if size > self.max_bytes:
                    raise RetrieverBroken(
                        f"{self.who} sent more than {self.max_bytes:,} bytes", retriever=self.who
                    )
                self._local.deadline.left(self.who)
        except urllib3.exceptions.TimeoutError as error:
            raise RetrieverTimeout(f"{self.who}: its answer stopped", retriever=self.who) from error
        except urllib3.exceptions.HTTPError as error:
            raise RetrieverBroken(f"{self.who} broke off its answer", retriever=self.who) from error
        return b"".join(parts)
