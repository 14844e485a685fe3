"""Runs the benchmarks, section by section, and writes docs/benchmarks.md from what all of them have found.

    python benchmarks/run.py [SECTION …]

A section's figures stay in benchmarks/results/ until it is run again, so that each can have a quiet hour of
its own. `retrieval` and `recall` need $VERIDICAL_DATA and, for what is dense, $VERIDICAL_EMBEDDING_MODEL;
what `passthrough` says of LiteLLM needs $LITELLM, its command.
"""

from __future__ import annotations

import os
import subprocess
import sys

import page
from measuring import HERE, RESULTS

SIZES = "10000,50000,500000,1000000"
SECTIONS = {
    "passthrough": ["passthrough.py", "--starts", "4", "--rounds", "2"],
    "footprint": ["footprint.py", "--install"],
    "workers": ["workers.py", "--rounds", "15"],
    "strategies": ["strategies.py"],
    "retrieval": ["retrieval.py", "--rows", "bm25,dense,growth,dense-growth", "--sizes", SIZES],
    "recall": ["recall.py"],
}
#: These print their tables, and need data that the repository does not have.
PRINTING = {"retrieval", "recall"}


def main() -> None:
    """Run what is named, or everything that can be run here."""
    wanted = sys.argv[1:] or [
        each for each in SECTIONS if each not in PRINTING or "VERIDICAL_DATA" in os.environ
    ]
    for section in wanted:
        if section not in SECTIONS:
            raise SystemExit(f"no section {section}; there are {', '.join(SECTIONS)}")
        script, *options = SECTIONS[section]
        print(f"--- {section}", file=sys.stderr, flush=True)
        command = [sys.executable, str(HERE / script), *options]
        if section in PRINTING:
            told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            RESULTS.mkdir(exist_ok=True)
            (RESULTS / f"{section}.md").write_text(told)
        else:
            subprocess.run(command, check=True)
    page.write()


if __name__ == "__main__":
    main()
