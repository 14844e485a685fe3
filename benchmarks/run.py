"""Runs the benchmarks, section by section, and writes docs/benchmarks.md from what all of them have found.

    python benchmarks/run.py [SECTION …]

A section's figures stay in benchmarks/results/ until it is run again, so that each can have a quiet hour of
its own. `retrieval` needs $VERIDICAL_DATA; what `passthrough` says of LiteLLM needs $LITELLM, its command.
"""

from __future__ import annotations

import os
import subprocess
import sys

import page
from measuring import HERE, RESULTS

SECTIONS = {
    "passthrough": ["passthrough.py"],
    "footprint": ["footprint.py", "--install"],
    "workers": ["workers.py"],
    "strategies": ["strategies.py"],
    "retrieval": ["retrieval.py", "--rows", "bm25,growth"],
}


def main() -> None:
    """Run what is named, or everything that can be run here."""
    wanted = sys.argv[1:] or [
        each for each in SECTIONS if each != "retrieval" or "VERIDICAL_DATA" in os.environ
    ]
    for section in wanted:
        if section not in SECTIONS:
            raise SystemExit(f"no section {section}; there are {', '.join(SECTIONS)}")
        script, *options = SECTIONS[section]
        print(f"--- {section}", file=sys.stderr, flush=True)
        command = [sys.executable, str(HERE / script), *options]
        if section == "retrieval":  # it prints tables of its own
            told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            RESULTS.mkdir(exist_ok=True)
            (RESULTS / "retrieval.md").write_text(told)
        else:
            subprocess.run(command, check=True)
    page.write()


if __name__ == "__main__":
    main()
