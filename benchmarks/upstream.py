"""A backend that answers every step of every strategy after a fixed delay; for benchmarks only.

python benchmarks/upstream.py --port 9101 --delay 0.2 --facts 4
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
from collections.abc import Iterator
from typing import Any

from aiohttp import web

USAGE = {"prompt_tokens": 50, "completion_tokens": 10, "total_tokens": 60}


#: Of a step's possible labels the one that makes a strategy go on.
DOUBT = ("inconsistent", "incorrect", "refuted", "not_enough_info")


def answer(body: dict[str, Any], facts: int, numbers: Iterator[int]) -> str:
    """What a call wants to hear: a value of the shape that it asks for, else some words. No two are alike,
    so that votes differ and no call is shared."""
    shape = body.get("response_format", {}).get("json_schema", {}).get("schema")
    if shape is None:
        return f"An answer of some words, number {next(numbers)}."
    return json.dumps(instance(shape, shape.get("$defs", {}), facts, numbers))


def instance(shape: dict[str, Any], known: dict[str, Any], facts: int, numbers: Iterator[int]) -> Any:
    """A value that fits a JSON schema, its lists with `facts` members where they may have so many."""
    if "$ref" in shape:
        shape = known[shape["$ref"].rpartition("/")[2]]
    if "enum" in shape:
        return next((label for label in DOUBT if label in shape["enum"]), shape["enum"][0])
    match shape.get("type"):
        case "object":
            return {key: instance(each, known, facts, numbers) for key, each in shape["properties"].items()}
        case "array":
            count = max(shape.get("minItems", 0), min(facts, shape.get("maxItems", facts)))
            return [instance(shape["items"], known, facts, numbers) for _ in range(count)]
        case "integer" | "number":
            return 1
        case "boolean":
            return False
    return f"words {next(numbers)}"


def app(delay: float, facts: int) -> web.Application:
    """The server."""
    numbers = itertools.count()

    async def chat(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        await asyncio.sleep(delay)
        texts = [answer(body, facts, numbers) for _ in range(body.get("n") or 1)]
        if not body.get("stream"):
            choices = [
                {"index": at, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
                for at, text in enumerate(texts)
            ]
            return web.json_response(
                {"id": "x", "object": "chat.completion", "choices": choices, "usage": USAGE}
            )
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for delta, finish in (({"role": "assistant", "content": texts[0]}, None), ({}, "stop")):
            chunk = {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
            await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        await response.write(b"data: " + json.dumps({"choices": [], "usage": USAGE}).encode() + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response

    async def models(request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "m", "object": "model"}]})

    server = web.Application()
    server.add_routes([web.post("/v1/chat/completions", chat), web.get("/v1/models", models)])
    return server


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, default=9101)
    parser.add_argument("--delay", type=float, default=0.2)
    parser.add_argument("--facts", type=int, default=4)
    options = parser.parse_args()
    web.run_app(app(options.delay, options.facts), host="127.0.0.1", port=options.port, print=None)
