"""The wheel, in an empty environment: it installs without extras, and serves, prompts included."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from veridical.tests.proxy import Proxy
from veridical.tests.upstream import Fact, Upstream

ROOT = Path(__file__).parent.parent
SOURCES = ("middleware", "strategies", "retrievers", "evals")
FILES = ("pyproject.toml", "README.md", "LICENSE", "py.typed")
OURS = ("VERIDICAL", "PYTHON")


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment that holds the wheel and what it requires, nothing else."""
    home = tmp_path_factory.mktemp("wheel")
    source = home / "source"
    source.mkdir()
    for name in SOURCES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for file in (
        *ROOT.glob("*.py"),
        *(ROOT / name for name in FILES),
    ):
        shutil.copy(file, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    run(*pip, "wheel", "--no-deps", "--wheel-dir", home, source, cwd=home)
    (wheel,) = home.glob("veridical-*.whl")
    venv.create(home / "env", with_pip=False, symlinks=True)
    target = ["--python", home / "env/bin/python"]
    run(*pip, *target, "install", "--constraint", ROOT / "constraints.txt", wheel, cwd=home)
    return home / "env"


@pytest.fixture
def installed(environment: Path, upstream: Upstream, tmp_path: Path) -> Iterator[Proxy]:
    """`veridical serve` from that environment, in a folder that holds nothing."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    command = [environment / "bin/veridical", "serve", "--port", "0", "--base-url", upstream.url]
    with subprocess.Popen(command, cwd=tmp_path, env=clean, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            port = next(
                found[1] for line in server.stderr if (found := re.search(r"http://[\d.]+:(\d+)", line))
            )
            proxy = Proxy(int(port))
            yield proxy
            proxy.close()
        finally:
            server.terminate()


@pytest.mark.timeout(600)
def test_the_wheel_serves_a_strategy_from_an_empty_environment(installed: Proxy, upstream: Upstream) -> None:
    upstream.cove(
        "Sydney.",
        Fact("The capital is Sydney.", "Which city is it?", "Canberra.", "inconsistent"),
        final="Canberra.",
    )
    answer = installed.ask(model="m1+cove")
    assert answer.choices[0].message.content == "Canberra."
    assert answer.veridical["claims"][0]["verdict"] == "refuted"


def test_nothing_reaches_site_packages_under_a_bare_name(environment: Path) -> None:
    (packages,) = environment.glob("lib/python*/site-packages")
    assert (packages / "veridical/strategies/prompts/cove/plan.md").is_file()
    assert not any((packages / name).exists() for name in (*SOURCES, "server.py", "tests"))
    assert not (packages / "torch").exists()
