"""What the proxy adds to a request that it passes on, beside bare probes that do nothing else.

    python benchmarks/passthrough.py [--starts 3] [--rounds 3] [--seconds 1] [--litellm PATH]

All targets run at once and take turns, so that every ratio is of one moment, and are started anew several
times, so that no figure is of one start alone. `veridical` has its default settings; `veridical, keys` lets
in one key with limits and keeps its usage. LiteLLM's proxy takes part where the path of its command is given
(`pip install 'litellm[proxy]'`, in an environment of its own).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from measuring import HERE, PROGRAM, Running, machine, memory_mb, running, save

UPSTREAM = 9110
BACKEND = f"http://127.0.0.1:{UPSTREAM}"
#: Connections, whether it streams, whether the events are paced.
CELLS: Mapping[str, tuple[int, bool, bool]] = {
    "whole, 1": (1, False, False),
    "whole, 16": (16, False, False),
    "whole, 64": (64, False, False),
    "stream, 1": (1, True, False),
    "stream, 16": (16, True, False),
    "paced stream, 1": (1, True, True),
    "paced stream, 16": (16, True, True),
    "paced stream, 32": (32, True, True),
}
REFERENCE = "Starlette + aiohttp"
#: What was measured: by cell, by target, one after the other.
Rounds = dict[str, dict[str, list[dict[str, float]]]]
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


@dataclass(frozen=True)
class Target:
    """A proxy before the upstream."""

    command: Sequence[str]
    port: int
    folder: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    key: str = "sk-benchmark"

    @property
    def url(self) -> str:
        """Where it answers chats."""
        return f"http://127.0.0.1:{self.port}/v1/chat/completions"


def probe(app: str, port: int) -> Target:
    """A bare probe behind uvicorn."""
    options = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
    command = [sys.executable, "-m", "uvicorn", f"{app}:app", "--port", str(port), *options]
    return Target(command, port, HERE / "probes", {"BACKEND": BACKEND})


def serving(port: int, *arguments: str, **environment: str) -> Target:
    """Our proxy."""
    command = [PROGRAM, "serve", "--base-url", f"{BACKEND}/v1", "--port", str(port), *arguments]
    return Target(command, port, environment=environment)


def with_key(port: int, folder: Path, *arguments: str) -> Target:
    """Our proxy with a key that has every limit, none of which is reached."""
    state = {"VERIDICAL_STATE_PATH": str(folder / "state.sqlite")}
    most = str(10**9)
    limits = ["--requests-per-minute", most, "--tokens-per-minute", most, "--tokens-per-month", str(10**12)]
    made = subprocess.run(
        [PROGRAM, "keys", "create", "--name", "benchmark", *limits],
        env={**os.environ, **state},
        capture_output=True,
        text=True,
        check=True,
    )
    (key,) = re.findall(r"vrd_\w+", made.stdout)
    base = serving(port, "--keys", *arguments)
    return Target(base.command, port, environment=state, key=key)


def litellm(program: str, port: int, folder: Path) -> Target:
    """LiteLLM's proxy for the same model."""
    model = {"model": "openai/m", "api_base": f"{BACKEND}/v1", "api_key": "sk-benchmark"}
    config = {"model_list": [{"model_name": "m", "litellm_params": model}]}
    (folder / "litellm.yaml").write_text(json.dumps(config))  # JSON is YAML
    options = ["--config", str(folder / "litellm.yaml"), "--port", str(port), "--host", "127.0.0.1"]
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION"}
    quiet["LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY"] = "true"  # it listens on loopback only
    return Target([program, *options], port, environment=quiet)


@contextmanager
def upstream() -> Iterator[Running]:
    """The backend behind all targets."""
    command = [sys.executable, str(HERE / "fast_upstream.py"), "--port", str(UPSTREAM)]
    with running(command, f"{BACKEND}/v1/models") as process:
        yield process


def loaded(target: Target, cell: str, pid: int, seconds: float, shared_by: int = 1) -> dict[str, float]:
    """One measurement; of a cell's connections the share of one of several targets."""
    connections, streams, paced = CELLS[cell]
    connections //= shared_by
    command = [sys.executable, str(HERE / "load.py"), target.url, "--key", target.key, "--pid", str(pid)]
    command += ["--connections", str(connections), "--seconds", str(seconds)]
    command += ["--stream"] * streams + ["--paced"] * paced
    found: dict[str, float] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    if found["failed"] or not found["requests"]:
        raise SystemExit(f"{cell}: {found}")
    return found


def measured(targets: Mapping[str, Target], pids: Mapping[str, int], options: argparse.Namespace) -> Rounds:
    """Every target in every cell, in turns; the first round only warms up."""
    cells = [cell for cell in CELLS if re.search(options.cells, cell)]
    found: Rounds = {c: {t: [] for t in targets} for c in cells}
    for round_ in range(options.rounds + 1):
        for cell in cells:
            order = list(targets) if round_ % 2 else list(targets)[::-1]
            for name in order:
                seconds = options.seconds if round_ else options.seconds / 4
                one = loaded(targets[name], cell, pids[name], seconds)
                if round_:
                    found[cell][name].append(one)
        print(f"round {round_} of {options.rounds}", file=sys.stderr, flush=True)
    return found


def summary(rounds: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """The medians of one cell. What a target adds, and its ratios, are of the same round."""
    told: dict[str, dict[str, float]] = {}
    for name, ours in rounds.items():
        figures = {each: statistics.median(one[each] for one in ours) for each in ours[0]}
        for what, time_ in (("added_ms", "p50_ms"), ("added_first_ms", "first_ms")):
            if time_ in ours[0]:
                direct = rounds["direct"]
                figures[what] = statistics.median(
                    one[time_] - other[time_] for one, other in zip(ours, direct, strict=True)
                )
        for what in ("cpu_us", "rps", "events_s"):
            if what in ours[0]:
                reference = rounds[REFERENCE]
                figures[f"{what}_ratio"] = statistics.median(
                    one[what] / other[what] for one, other in zip(ours, reference, strict=True)
                )
        told[name] = figures
    return told


def started(options: argparse.Namespace) -> tuple[Rounds, dict[str, float]]:
    """The rounds of one start of all targets, and the megabytes that each held behind them."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        behind = stack.enter_context(upstream())
        targets = {
            "direct": Target([], UPSTREAM),
            "raw ASGI + aiohttp": probe("raw_asgi", 9111),
            REFERENCE: probe("starlette_app", 9112),
            "veridical": serving(9113),
            "veridical, keys": with_key(9114, Path(folder)),
        }
        if options.litellm:
            targets["LiteLLM"] = litellm(options.litellm, 9115, Path(folder))
        pids = {"direct": behind.pid}
        for name, target in targets.items():
            if name not in pids:
                process = running(
                    target.command,
                    target.url,
                    body=CHAT,
                    key=target.key,
                    environment=target.environment,
                    folder=target.folder,
                )
                pids[name] = stack.enter_context(process).pid
        found = measured(targets, pids, options)
        return found, {name: memory_mb(pid) for name, pid in pids.items()}


def main() -> None:
    """Run everything and keep the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--starts", type=int, default=3, help="of every process")
    parser.add_argument("--rounds", type=int, default=3, help="of each start")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--cells", default="", help="a regular expression; all unless given")
    parser.add_argument("--litellm", default=os.environ.get("LITELLM"), help="the path of its command")
    options = parser.parse_args()
    at = machine()
    rounds: Rounds = {}
    for start in range(options.starts):
        found, memory = started(options)
        for cell, targets in found.items():
            for name, seen in targets.items():
                rounds.setdefault(cell, {}).setdefault(name, []).extend(seen)
            ratios = {name: round(one.get("cpu_us_ratio", 0.0), 3) for name, one in summary(targets).items()}
            print(f"start {start + 1} of {options.starts}", cell, ratios, file=sys.stderr, flush=True)
    cells = {cell: summary(found) for cell, found in rounds.items()}
    told = {"cells": cells, "memory_mb": memory, "starts": options.starts, "rounds": options.rounds}
    save("passthrough", at, told)


if __name__ == "__main__":
    main()
