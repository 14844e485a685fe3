"""The proxy for the clients' tests, in a process of its own: `python servers.py [--backend URL]`.

Without a backend a scripted model stands behind it. Prints the API roots of both as one line of JSON and
serves until its input closes. It runs in the project's environment, the clients in theirs.
"""

import argparse
import json
import re
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from veridical.middleware.config import Settings
from veridical.tests.answers import Answer, Exchange, Fail, Say, Whole
from veridical.tests.proxy import running_proxy
from veridical.tests.upstream import CANBERRA, Upstream, running_upstream

EMBEDDING = {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}]}


def answer(exchange: Exchange) -> Answer:
    """What a model that does all that it is asked would say: a call of the tool, an object that fits the
    schema, else a sentence."""
    body = exchange.body
    last = body["messages"][-1]
    words = exchange.prompt
    wanted = body.get("response_format") or {}
    if body["model"] not in ("m1", "m2"):
        return Fail(404, "no such model")
    tools = {each["function"]["name"]: each["function"] for each in body.get("tools") or ()}
    choice = body.get("tool_choice", "auto")
    if tools and choice != "none" and last["role"] != "tool":
        forced = choice["function"]["name"] if isinstance(choice, dict) else next(iter(tools))
        return _calling(forced, made(tools[forced].get("parameters") or {}, words))
    if wanted.get("type") == "json_schema":
        return Say(json.dumps(made(wanted["json_schema"]["schema"], words)))
    if wanted.get("type") == "json_object":
        joke = {"setup": "Why?", "punchline": "Because."}
        return Say(json.dumps(joke if "joke" in words else {"city": "Canberra"}))
    if "codeblock" in words:  # instructor asks for JSON in the prompt alone
        return Say('```json\n{"city": "Canberra"}\n```')
    return Say("The capital of Australia is Canberra.", prompt_tokens=20, completion_tokens=8)


def _calling(name: str, arguments: Any) -> Say:
    text = json.dumps(arguments, ensure_ascii=False)
    call = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": text}}
    begun = {**call, "index": 0, "function": {"name": name, "arguments": ""}}
    rest = [{"index": 0, "function": {"arguments": text[i : i + 5]}} for i in range(0, len(text), 5)]
    deltas = [{"role": "assistant", "content": None, "tool_calls": [begun]}]
    return Say(
        None,
        message={"tool_calls": [call]},
        deltas=[*deltas, *({"tool_calls": [piece]} for piece in rest)],
        finish="tool_calls",
    )


def made(schema: Mapping[str, Any], words: str, whole: Mapping[str, Any] | None = None) -> Any:
    """A value that fits a JSON schema; strings are what the prompt has in quotes, else a city."""
    whole = whole or schema
    if "$ref" in schema:
        return made(whole["$defs"][schema["$ref"].rpartition("/")[2]], words, whole)
    for several in ("anyOf", "allOf", "oneOf"):
        if several in schema:
            return made(schema[several][0], words, whole)
    if "const" in schema or "enum" in schema:
        return schema.get("const", (schema.get("enum") or [None])[0])
    match schema.get("type"):
        case "integer" | "number":
            return 3
        case "boolean":
            return True
        case "array":
            return [made(schema.get("items") or {}, words, whole)] * max(1, schema.get("minItems", 1))
        case "string":
            quoted = re.findall(r"['\"]([^'\"]+)['\"]", words)
            return quoted[-1] if quoted else "Canberra"
    properties = schema.get("properties") or {}
    return {name: made(each, words, whole) for name, each in properties.items()}


def scripted(upstream: Upstream) -> None:
    upstream.cove("", CANBERRA)
    upstream.on(draft=answer)
    upstream.paths["/v1/embeddings"] = Whole(json.dumps({**EMBEDDING, "model": "m1"}).encode())


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--backend", help="API root of a real server; without one, a scripted model")
    backend = options.parse_args().backend
    with ExitStack() as stack:
        if backend is None:
            upstream = stack.enter_context(running_upstream())
            scripted(upstream)
            backend = upstream.url
        up = {"type": "http", "base_url": backend}
        proxy = stack.enter_context(running_proxy(Settings.model_validate({"backends": {"up": up}})))
        print(json.dumps({"backend": backend, "proxy": proxy.url}), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
