"""How many prompt tokens of a Chain-of-Verification run a prefix cache serves, and in a plain layout.

    veridical serve --port 8393
    python benchmarks/prefix_cache.py [--url http://127.0.0.1:8393/v1] [--model local] [--questions 6]

Runs `cove(variant=factor_revise)` on a few questions, one after the other, on a running proxy whose backend
reports `prompt_tokens_details.cached_tokens` (llama.cpp does; vLLM with --enable-prompt-tokens-details), and
prints prompt tokens by where they came from: the cache, or computed. The first run finds the cache cold, if
the server was just started.

Then the same prompts are sent once more in a plain layout, one token each, and their uncached tokens are
counted: every call is one self-contained message with what varies first (the question, the draft, the fact)
and the fixed instructions last. Calls that are the same in both layouts (the draft, a check, which is a bare
question) are not sent again: they would find themselves in the cache. They count as in the run. Calls at the
same depth are sent at once, as in the run.
"""

from __future__ import annotations

import argparse
import asyncio
import os.path
from collections import defaultdict
from typing import Any

import aiohttp

STRATEGY = "cove(variant=factor_revise)"
QUESTIONS = (
    "What is the capital of Australia, and when was it founded?",
    "Who wrote the novel Frankenstein, and in what year was it published?",
    "Who painted the Mona Lisa, and in which museum does it hang?",
    "In which year did the Berlin Wall fall, and which city did it divide?",
    "Tell me three facts about Marie Curie.",
    "Who was the first person to walk on the Moon, and when?",
)
SAME_IN_BOTH = {"draft", "cove/check"}


def told(usage: dict[str, Any] | None) -> tuple[int, int]:
    """Prompt tokens and how many of them were cached."""
    details = (usage or {}).get("prompt_tokens_details") or {}
    return (usage or {}).get("prompt_tokens", 0), details.get("cached_tokens", 0)


def heads(runs: list[list[dict[str, Any]]]) -> dict[str, str]:
    """By step, the fixed text with which its last message begins: what all of them share, in whole lines."""
    texts = defaultdict(list)
    for call in (call for run in runs for call in run):
        texts[call["step"]].append(call["messages"][-1]["content"])
    shared = {step: os.path.commonprefix(found) for step, found in texts.items()}  # noqa: RUF071 - by characters
    whole = {step: text == texts[step][0] for step, text in shared.items()}
    return {step: text if whole[step] else text[: text.rfind("\n") + 1] for step, text in shared.items()}


def plain(messages: list[dict[str, Any]], head: str) -> list[dict[str, Any]]:
    """The same request with what varies first and the fixed text last, in one message."""
    *before, last = (message["content"] for message in messages)
    return [{"role": "user", "content": "\n\n".join([*before, last[len(head) :], head]).strip()}]


async def post(session: aiohttp.ClientSession, url: str, **body: Any) -> dict[str, Any]:
    async with session.post(f"{url}/chat/completions", json=body) as response:
        found = await response.json()
        if response.status != 200:
            raise SystemExit(f"{response.status}: {found['error']['message']}")
        return found


async def uncached_in_plain(
    session: aiohttp.ClientSession, url: str, model: str, run: list[dict[str, Any]], fixed: dict[str, str]
) -> int:
    """The uncached prompt tokens of a run's calls in the plain layout."""
    total = 0
    for depth in sorted({call["depth"] for call in run}):
        calls = [call for call in run if call["depth"] == depth]
        again = [call for call in calls if call["step"] not in SAME_IN_BOTH]
        bodies = [plain(call["messages"], fixed[call["step"]]) for call in again]
        found = await asyncio.gather(
            *(post(session, url, model=model, messages=body, max_tokens=1, temperature=0) for body in bodies)
        )
        usages = [each["usage"] for each in found]
        usages += [call["usage"] for call in calls if call["step"] in SAME_IN_BOTH]
        total += sum(prompt - cached for prompt, cached in map(told, usages))
    return total


async def main(url: str, model: str, questions: int) -> None:
    """Run, replay, print."""
    timeout = aiohttp.ClientTimeout(total=900)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        runs = []
        for question in QUESTIONS[:questions]:
            found = await post(
                session,
                url,
                model=model,
                messages=[{"role": "user", "content": question}],
                max_tokens=160,
                temperature=0,
                veridical={"strategy": STRATEGY, "trace": "full"},
            )
            runs.append([call for call in found["veridical"]["steps"] if call["usage"]])
        if not any(told(call["usage"])[1] for run in runs for call in run):
            raise SystemExit("The backend reports no cached tokens.")
        fixed = heads(runs)
        plains = [await uncached_in_plain(session, url, model, run, fixed) for run in runs]
    table(runs, plains)


def table(runs: list[list[dict[str, Any]]], plains: list[int]) -> None:
    """Both layouts, by run, and the whole by step."""
    print("| run | calls | prompt tokens | cached | uncached | cached share | uncached, plain layout |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    everything = [call for run in runs for call in run]
    rows = [(str(at), run, known) for at, (run, known) in enumerate(zip(runs, plains, strict=True), 1)]
    for name, calls, known in [*rows, ("all", everything, sum(plains))]:
        print(f"| {name} | {counted(calls)} | {known} |")
    print("\n| step | calls | prompt tokens | cached | uncached | cached share |\n" + "| --- " * 6 + "|")
    for step in dict.fromkeys(call["step"] for call in everything):
        print(f"| {step} | {counted([call for call in everything if call['step'] == step])} |")


def counted(calls: list[dict[str, Any]]) -> str:
    usages = [told(call["usage"]) for call in calls]
    prompt, cached = sum(p for p, _ in usages), sum(c for _, c in usages)
    return f"{len(calls)} | {prompt} | {cached} | {prompt - cached} | {cached / prompt:.0%}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default="http://127.0.0.1:8393/v1")
    parser.add_argument("--model", default="local")
    parser.add_argument("--questions", type=int, default=len(QUESTIONS))
    options = parser.parse_args()
    asyncio.run(main(options.url, options.model, options.questions))
