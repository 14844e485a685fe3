"""A backend that answers every step of every strategy after a fixed delay; for benchmarks only.

python benchmarks/upstream.py --port 9101 --delay 0.2 --facts 4
"""

from __future__ import annotations

import argparse
import asyncio
import json

from aiohttp import web

USAGE = {"prompt_tokens": 50, "completion_tokens": 10, "total_tokens": 60}


def answer(prompt: str, facts: int) -> str:
    """What a step wants to hear, told by the words of its prompt."""
    questions = [{"fact": f"fact {i}", "question": f"question {i}?", "answer": "x"} for i in range(facts)]
    if "right after it answer" in prompt:
        return json.dumps({"checks": questions})
    if "write one question" in prompt:
        return json.dumps({"checks": [{k: q[k] for k in ("fact", "question")} for q in questions]})
    if "Answer each question below" in prompt:
        return json.dumps({"answers": ["x"] * facts})
    if "tests a statement" in prompt:
        return json.dumps({"holds": "x", "label": "inconsistent"})
    return "An answer of some words."


def app(delay: float, facts: int) -> web.Application:
    """The server."""

    async def chat(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        await asyncio.sleep(delay)
        text = answer(body["messages"][-1]["content"], facts)
        if not body.get("stream"):
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            return web.json_response(
                {"id": "x", "object": "chat.completion", "choices": [choice], "usage": USAGE}
            )
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for delta, finish in (({"role": "assistant", "content": text}, None), ({}, "stop")):
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
