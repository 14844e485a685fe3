"""Every client's tests against a backend, straight and through the proxy, and the outcomes side by side.

    python tests/clients/run.py                                        # before a scripted model
    python tests/clients/run.py --backend http://127.0.0.1:8080/v1 --model NAME

Run by the clients' environment (`make test-clients`); the proxy runs in the project's. Fails where a test
that passes straight fails through the proxy, or the other way round, and before the scripted model where
any test fails.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
Outcomes = dict[str, str]
#: What the proxy does and a server may not: llama.cpp's answers under any model's name.
PROXY_ONLY = {"openai_sdk.test_an_unknown_model_is_not_found"}


@contextmanager
def servers(python: str, backend: str | None) -> Iterator[dict[str, str]]:
    command = [python, str(HERE / "servers.py"), *(["--backend", backend] if backend else [])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.stdin.close()


def outcomes(url: str, model: str, chosen: list[str]) -> Outcomes:
    """Each test's outcome against one API root."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-c", "pytest.ini", f"--junitxml={report}", *chosen]
        told = {
            "VERIDICAL_CLIENTS_URL": url,
            "VERIDICAL_CLIENTS_MODEL": model,
            "VERIDICAL_CLIENTS_NODE": str(Path(sys.prefix) / "node_modules"),
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # it would fetch its price list at import
            "PYTHONPATH": str(HERE),
        }
        subprocess.run(command, cwd=HERE, env={**os.environ, **told}, check=False)
        return {
            f"{case.get('classname', '').rpartition('test_')[2]}.{case.get('name')}": _outcome(case)
            for case in ElementTree.parse(report).iter("testcase")
        }


def _outcome(case: ElementTree.Element) -> str:
    found = {child.tag for child in case}
    return "failed" if found & {"failure", "error"} else "skipped" if "skipped" in found else "passed"


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--backend", help="API root of a real server; without one, a scripted model")
    options.add_argument("--model", default="m1")
    options.add_argument("--strategy", default="cove", help="also ask for MODEL+STRATEGY; empty = do not")
    options.add_argument("--python", default=str(ROOT / ".venv/bin/python"), help="the project's Python")
    options.add_argument("tests", nargs="*", help="test files or ids; all without any")
    given = options.parse_args()
    with servers(given.python, given.backend) as roots:
        straight = outcomes(roots["backend"], given.model, given.tests)
        proxied = outcomes(roots["proxy"], given.model, given.tests)
        checked = (
            outcomes(roots["proxy"], f"{given.model}+{given.strategy}", given.tests) if given.strategy else {}
        )
    runs = {"straight": straight, "proxy": proxied, f"+{given.strategy}": checked}
    for client in sorted({client_of(name) for name in proxied}):
        told = (f"{name} {_counted(found, client)}" for name, found in runs.items() if found)
        print(f"{client:12}", ", ".join(told))
    differ = {name for name in straight | proxied if straight.get(name) != proxied.get(name)}
    # The scripted model speaks chats only: with the proxy it has the Responses API too.
    added = {name for name in differ if given.backend is None and "responses" in name.lower()}
    added |= {name for name in differ & PROXY_ONLY if proxied.get(name) == "passed"}
    broken = {name for found in (proxied, checked) for name, told in found.items() if told == "failed"}
    for name in sorted(differ - added):
        print(f"{straight.get(name)} straight, {proxied.get(name)} by the proxy: {name}")
    for name in sorted(broken):
        print(f"failed by the proxy: {name}")
    sys.exit(bool(differ - added or (given.backend is None and broken)))


def client_of(name: str) -> str:
    """Which client a test is of: its module's, or in test_others.py the first word of its name."""
    module, _, test = name.partition(".")
    return test.split("_")[1].partition("[")[0] if module == "others" else module.partition("_")[0]


def _counted(found: Outcomes, client: str) -> str:
    counts = Counter(outcome for name, outcome in found.items() if client_of(name) == client)
    return " ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items(), key=lambda c: c[0]))


if __name__ == "__main__":
    main()
