"""Ask a running proxy ten factual questions with the official OpenAI SDK and print the transcript.

    python examples/first_run.py --model local+cove > transcript.md

Every question is asked once not streamed; the first is asked again streamed. The last line counts
the runs that completed every step.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from openai import OpenAI

QUESTIONS = (
    "What is the capital of Australia?",
    "Who wrote the novel Frankenstein, and in what year was it published?",
    "Which planet of the solar system is the largest?",
    "In which year did the Berlin Wall fall, and which city did it divide?",
    "Who painted the Mona Lisa, and in which museum does it hang?",
    "What is the chemical symbol of gold?",
    "Which river flows through Cairo?",
    "Who was the first person to walk on the Moon, and when?",
    "Tell me three facts about Marie Curie.",
    "¿Cuál es la capital de Perú y qué océano baña su costa?",
)


def ask(client: OpenAI, model: str, question: str) -> dict[str, Any]:
    """The whole completion as a dictionary, `veridical` object included."""
    completion = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question}],
        max_tokens=160,
        temperature=0,
        extra_body={"veridical": {"trace": "full"}},
    )
    return completion.model_dump()


def stream(client: OpenAI, model: str, question: str) -> None:
    """Ask again, streamed, and print what came when."""
    began = time.perf_counter()
    first = None
    text, trail = "", {}
    for chunk in client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question}],
        max_tokens=160,
        temperature=0,
        stream=True,
    ):
        delta = chunk.choices[0].delta.content if chunk.choices else None
        if delta:
            first = first or time.perf_counter() - began
            text += delta
        trail = getattr(chunk, "veridical", None) or trail
    print(f"\n## Streamed\n\n**{question}**\n\n> {quoted(text)}\n")
    print(f"First words after {first or 0:.1f} s, all after {time.perf_counter() - began:.1f} s; ", end="")
    print(f"status {trail.get('status')}, {trail.get('calls')} calls.")


def quoted(text: str) -> str:
    """Text as one Markdown quotation."""
    return text.strip().replace("\n", "\n> ")


def show(number: int, question: str, answer: dict[str, Any]) -> None:
    """One run in Markdown: draft, checks, final answer, cost."""
    trail, usage = answer["veridical"], answer["usage"]
    print(f"\n## {number}. {question}\n")
    print(f"Draft:\n\n> {quoted(trail['drafts'][0])}\n")
    if trail["claims"]:
        print("| claim | question | answer of the isolated check | verdict |\n| --- | --- | --- | --- |")
    for claim in trail["claims"]:
        cells = (claim["text"], claim["question"], claim["answer"] or "(none)", claim["verdict"])
        print("| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    print(f"\nFinal answer ({trail['status']}):\n\n> {quoted(answer['choices'][0]['message']['content'])}\n")
    cost = f"{usage['prompt_tokens']} + {usage['completion_tokens']} tokens"
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
    print(f"{trail['calls']} calls, depth {trail['depth']}, {cost} ({cached or 0} cached), ", end="")
    print(f"{trail['seconds']:.1f} s.")
    for note in trail["notes"]:
        print(f"Note: {note}")


def main() -> None:
    """Run the questions."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--model", default="local+cove")
    parser.add_argument("--limit", type=int, default=len(QUESTIONS))
    options = parser.parse_args()
    client = OpenAI(base_url=options.url, api_key="none", timeout=900, max_retries=0)
    statuses = []
    for number, question in enumerate(QUESTIONS[: options.limit], 1):
        print(f"{number}/{options.limit} {question}", file=sys.stderr)
        answer = ask(client, options.model, question)
        statuses.append(answer["veridical"]["status"])
        show(number, question, answer)
    stream(client, options.model, QUESTIONS[0])
    whole = sum(status != "degraded" for status in statuses)
    print(f"\n{whole} of {len(statuses)} runs completed every step undegraded.")


if __name__ == "__main__":
    main()
