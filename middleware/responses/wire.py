"""Answers as OpenAI's responses: the object, and the events of a stream."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import orjson

from veridical.middleware.completion import said_by, usage_of
from veridical.middleware.pipeline import Run, traced
from veridical.middleware.responses.output import INCOMPLETE, Output
from veridical.middleware.responses.request import ResponsesBody
from veridical.strategies.evidence import citations
from veridical.strategies.reply import unstreamed
from veridical.strategies.types import Answer, Delta

Keep = Callable[[dict[str, Any]], Awaitable[bool]]
#: Fields that a response repeats from its request, and what stands there where that has none.
_REPEATED: Mapping[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": None,
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": None,
    "truncation": "disabled",
    "user": None,
}


class ResponsesWire:
    """One answer in the Responses API's shape. `keep` stores a finished response, where it is wanted."""

    def __init__(self, run: Run, request: ResponsesBody, stem: str, keep: Keep | None) -> None:
        self._run, self._request, self._keep = run, request, keep
        self._output = Output(stem, self._tell, self._cite)
        self._told: list[bytes] = []
        self._number = 0
        asked = {name: request.body.get(name) for name in _REPEATED}
        self._head: dict[str, Any] = {
            "id": f"resp_{stem}",
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "background": False,
            "error": None,
            "incomplete_details": None,
            "model": request.model,
            **{name: default if asked[name] is None else asked[name] for name, default in _REPEATED.items()},
            "store": keep is not None,
            "output": [],
            "usage": None,
        }

    async def whole(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """The response object."""
        (answer,) = said_by(self._run, answers)
        self._output.feed(Delta(unstreamed(answer.message), logprobs=answer.logprobs))
        self._output.finish(answer.finish_reason)
        return await self._finished(answer.finish_reason)

    def opening(self) -> bytes:
        """The events ahead of the first item."""
        self._tell("response.created", response=self._head)
        self._tell("response.in_progress", response=self._head)
        return self._frames()

    def delta(self, index: int, delta: Delta) -> bytes:
        """The events of a piece of the answer."""
        self._output.feed(delta)
        return self._frames()

    async def ending(self, finishes: Mapping[int, str]) -> bytes:
        """The events that close what is open, and the response itself."""
        self._output.finish(finishes[0])
        response = await self._finished(finishes[0])
        self._tell(f"response.{response['status']}", response=response)
        return self._frames()

    def failure(self, error: Mapping[str, Any]) -> bytes:
        """The events of a response that broke off. `error` stands in the first also as one object, at
        which the official SDK raises."""
        words = {name: error.get(name) for name in ("code", "message", "param")}
        self._tell("error", **words, error=error)
        told = {"code": "server_error", "message": error.get("message")}
        failed = {**self._head, "status": "failed", "error": told, "output": self._output.items}
        self._tell("response.failed", response=failed)
        return self._frames()

    async def _finished(self, finish: str) -> dict[str, Any]:
        why = INCOMPLETE.get(finish)
        report = traced(self._run, self._run.request.controls.trace)
        reply = self._run.choices[0].reply
        envelope = reply.answer.envelope if reply else {}
        response = {
            **self._head,
            **{name: value for name, value in envelope.items() if self._head.get(name) is None},
            "status": "incomplete" if why else "completed",
            "completed_at": None if why else int(time.time()),
            "incomplete_details": {"reason": why} if why else None,
            "output": self._output.items,
            "usage": _usage(usage_of(self._run)),
            **({"veridical": report} if report else {}),
        }
        if self._keep and not await self._keep(response):
            response["store"] = False
        return response

    def _cite(self, text: str) -> list[Mapping[str, Any]]:
        reply = self._run.choices[0].reply
        return [each.to_wire() for each in citations(text, reply.evidence)] if reply else []

    def _tell(self, kind: str, **fields: Any) -> None:
        told = orjson.dumps({"type": kind, **fields, "sequence_number": self._number})
        self._told.append(b"event: " + kind.encode() + b"\ndata: " + told + b"\n\n")
        self._number += 1

    def _frames(self) -> bytes:
        frames = b"".join(self._told)
        self._told.clear()
        return frames


def _usage(usage: Mapping[str, Any]) -> dict[str, Any]:
    """A chat's `usage` under the Responses API's names."""
    prompt, completion = usage.get("prompt_tokens_details", {}), usage.get("completion_tokens_details", {})
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": prompt.get("cached_tokens", 0), "cache_write_tokens": 0},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": completion.get("reasoning_tokens", 0)},
        "total_tokens": usage["total_tokens"],
    }
