"""Errors become HTTP here and nowhere else, in OpenAI's shape: {"error": {message, type, param, code}}."""

from __future__ import annotations

import logging
import math
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from veridical.middleware.observing.observation import current
from veridical.strategies.errors import (
    BackendError,
    BackendFailed,
    BackendRateLimited,
    BackendRefused,
    BackendTimeout,
    BackendUnavailable,
    BackendUnreachable,
    BudgetExceeded,
    ConfigError,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    RetrievalFailed,
    ToolFailed,
    UnparsableOutput,
    VeridicalError,
)

log = logging.getLogger("veridical")


class BodyTooLarge(InvalidRequest):
    """The request body is over `server.max_body_bytes`."""

    code = "request_too_large"


class Unauthorized(VeridicalError):
    """The request carries no valid client key."""

    code = "invalid_api_key"


class NotAllowed(VeridicalError):
    """The client's key may not do this."""

    code = "not_allowed"


class NothingKept(VeridicalError):
    """What is asked for is not kept by a server with these settings."""

    code = "not_found"


class StateUnavailable(VeridicalError):
    """The state database does not answer, or refuses; the message never holds its address."""

    code = "state_unavailable"


class RateLimited(VeridicalError):
    """A limit per minute of the client's key is in the way: of `requests` or of `tokens`, for `wait_s`
    seconds. `headers` tell how the limits stand."""

    code = "rate_limit_exceeded"

    def __init__(self, message: str, of: str, wait_s: float, headers: Sequence[tuple[bytes, bytes]]) -> None:
        super().__init__(message)
        self.of, self.wait_s, self.headers = of, wait_s, headers


class QuotaExhausted(VeridicalError):
    """The month's token budget of the client's key is used up."""

    code = "insufficient_quota"


class ClientDisconnected(Exception):
    """The client went away: there is nobody to answer."""


STATUS: Mapping[type[VeridicalError], int] = {
    BodyTooLarge: 413,
    InvalidRequest: 400,
    Unauthorized: 401,
    NotAllowed: 403,
    RateLimited: 429,
    QuotaExhausted: 429,
    StateUnavailable: 503,
    NotFound: 404,
    NothingKept: 404,
    BackendRefused: 502,  # its own status is passed on where it had one
    BackendRateLimited: 429,
    BackendFailed: 502,
    BackendUnreachable: 502,
    BackendTimeout: 504,
    BackendUnavailable: 503,
    RetrievalFailed: 502,
    ToolFailed: 502,
    UnparsableOutput: 502,
    DeadlineExceeded: 504,
    BudgetExceeded: 503,
    ConfigError: 500,
    VeridicalError: 500,
}


def status_of(error: VeridicalError) -> int:
    """The HTTP status of an error: a backend's own 4xx where it had one, else the table's."""
    if isinstance(error, BackendRefused) and error.status:
        return error.status
    return next(STATUS[cls] for cls in type(error).__mro__ if cls in STATUS)


def error_type(status: int) -> str:
    """OpenAI's `type` for a status."""
    match status:
        case 401:
            return "authentication_error"
        case 403:
            return "permission_error"
        case 429:
            return "rate_limit_error"
        case _ if status < 500:
            return "invalid_request_error"
    return "api_error"


def error_object(error: BaseException) -> tuple[int, dict[str, Any]]:
    """Status and `error` object for anything that went wrong; a backend's own 4xx object is passed on.

    What is no `VeridicalError` is a fault of ours: logged here by its kind and place, since its text
    and its traceback may hold a key; told to the client without detail.
    """
    current().failed(error)
    if not isinstance(error, VeridicalError):
        log.error("unexpected %s at %s", type(error).__name__, _place(error))
        return 500, _object("The proxy failed on this request.", 500, None, "internal_error")
    status = status_of(error)
    if isinstance(error, BackendError) and error.body and status < 500:
        return status, {**_object(error.message, status, None, error.code), **error.body}
    found = _object(error.message, status, error.param, error.code)
    if isinstance(error, RateLimited | QuotaExhausted):  # OpenAI's `type` says which limit it was
        found["type"] = error.of if isinstance(error, RateLimited) else error.code
    return status, found


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    return " > ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)


def _object(message: str, status: int, param: str | None, code: str) -> dict[str, Any]:
    return {"message": message, "type": error_type(status), "param": param, "code": code}


def error_response(error: BaseException) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Status, headers and body of the answer to a failed request."""
    status, found = error_object(error)
    headers = [(b"content-type", b"application/json")]
    if isinstance(error, BackendError) and error.retry_after and error.retry_after.isprintable():
        headers.append((b"retry-after", error.retry_after.encode("latin-1", "replace")))
    if isinstance(error, Unauthorized):
        headers.append((b"www-authenticate", b"Bearer"))
    if isinstance(error, RateLimited):
        headers += error.headers
        headers.append((b"retry-after", b"%d" % math.ceil(error.wait_s)))
        headers.append((b"retry-after-ms", b"%d" % math.ceil(error.wait_s * 1000)))
    if isinstance(error, QuotaExhausted):
        headers.append((b"x-should-retry", b"false"))  # the official SDKs would try a 429 again
    return status, headers, orjson.dumps({"error": found})
