"""What can go wrong, as a small tree. `middleware/errors.py` alone turns it into HTTP.

VeridicalError
├── InvalidRequest              the client's request cannot be served as it stands
│   └── UnsupportedParameter    a field that this path cannot honour, refused by name
├── NotFound                    an unknown model or strategy, with the nearest matches
├── BackendError                the model behind us
│   ├── BackendRefused          it answered 4xx: its status and body are passed on
│   ├── BackendRateLimited      it answered 429
│   ├── BackendFailed           it answered 5xx, or broke its protocol
│   ├── BackendUnreachable      no connection
│   ├── BackendTimeout          no answer in time
│   └── BackendUnavailable      it was not asked: its queue is full, or it is set aside after failures
├── RetrievalFailed             a source of evidence failed, timed out or cannot be reached
├── ToolFailed                  a tool failed, or cannot be reached
├── UnparsableOutput            a model's output did not fit, twice
├── BudgetExceeded              calls or tokens ran out
│   └── DeadlineExceeded        time ran out
└── ConfigError                 the configuration cannot be used (start-up only)
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any


class VeridicalError(Exception):
    """Base of every error that a client or an operator may see; its text is safe to show."""

    code = "internal_error"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class InvalidRequest(VeridicalError):
    """The request cannot be served as it stands; `param` names the field."""

    code = "invalid_request"


class UnsupportedParameter(InvalidRequest):
    """A field that cannot be honoured on this path and is refused rather than dropped."""

    code = "unsupported_parameter"


class NotFound(VeridicalError):
    """An unknown model or strategy; the message suggests the nearest names."""

    code = "not_found"

    def __init__(
        self, what: str, name: str, known: Iterable[str], *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(f"Unknown {what} {shown(name)}.{suggestion(name, known)}", param=param)
        self.code = code or f"{what}_not_found"


class BackendError(VeridicalError):
    """The model behind us did not answer as it should.

    `status` is its HTTP status where it had one, `body` its error object where it sent one,
    `retry_after` its Retry-After header.
    """

    code = "backend_error"
    retryable = False

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        body: Mapping[str, Any] | None = None,
        retry_after: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = body
        self.retry_after = retry_after


class BackendRefused(BackendError):
    """The backend answered 4xx: a retry would be refused again."""

    code = "backend_refused"


class BackendRateLimited(BackendError):
    """The backend answered 429."""

    code = "rate_limit_exceeded"
    retryable = True


class BackendFailed(BackendError):
    """The backend answered 5xx, or broke off, or sent what is no chat completion."""

    code = "backend_failed"
    retryable = True


class BackendUnreachable(BackendError):
    """No connection to the backend."""

    code = "backend_unreachable"
    retryable = True


class BackendTimeout(BackendError):
    """The backend did not answer in time."""

    code = "backend_timeout"


class BackendUnavailable(BackendError):
    """The backend was not asked: too many requests wait for it, or it has failed too often of late."""

    code = "backend_unavailable"
    retryable = True


def refused_with(status: int) -> type[BackendError]:
    """The kind of error that a backend's status of 400 or above stands for."""
    return BackendFailed if status >= 500 else BackendRateLimited if status == 429 else BackendRefused


class RetrievalFailed(VeridicalError):
    """A source of evidence failed, timed out or cannot be reached."""

    code = "retrieval_failed"


class ToolFailed(VeridicalError):
    """A tool failed, timed out or cannot be reached. What a tool finds is no failure."""

    code = "tool_failed"


class UnparsableOutput(VeridicalError):
    """A model's output did not fit the expected shape, and neither did the second try."""

    code = "unparsable_output"


class BudgetExceeded(VeridicalError):
    """The request's budget of calls or tokens is used up."""

    code = "budget_exceeded"


class DeadlineExceeded(BudgetExceeded):
    """The request's deadline has passed."""

    code = "deadline_exceeded"


class ConfigError(VeridicalError):
    """The configuration cannot be used."""

    code = "config_error"


def shown(name: str, limit: int = 80) -> str:
    """`name` in quotes, cut to `limit` characters: a hostile name must not fill a log."""
    return repr(name if len(name) <= limit else name[: limit - 1] + "…")


def suggestion(name: str, known: Iterable[str]) -> str:
    """A sentence that offers the names nearest to `name`, or nothing."""
    near = difflib.get_close_matches(name[:200], sorted(known), n=3, cutoff=0.5)
    return f" Did you mean {', '.join(map(repr, near))}?" if near else ""
