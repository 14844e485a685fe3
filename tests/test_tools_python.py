"""The python tool: hostile programs end cleanly and in time, and the server stays as it was."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from veridical.strategies.tools.python import LAUNCHER, PythonSandbox
from veridical.tests.answers import Say
from veridical.tests.conftest import Serve
from veridical.tests.proxy import Proxy, wait_until
from veridical.tests.upstream import Upstream

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="namespaces and /proc are Linux's")

HOSTILE = {
    "reads a file": ("answer = open('/etc/passwd').read()", "Permission denied"),
    "reads by a path": (
        "import pathlib\nanswer = pathlib.Path('/etc/hosts').read_text()",
        "Permission denied",
    ),
    "lists a folder": ("import os\nanswer = os.listdir('/')", "Permission denied"),
    "writes a file": ("open('/tmp/veridical-was-here', 'w').write('x')", "Permission denied"),
    "reads the environment": ("import os\nanswer = dict(os.environ)", "not supported"),
    "opens a connection": ("import socket\nsocket.create_connection(('127.0.0.1', 80))", "No module named"),
    "fetches a page": ("import urllib.request\nurllib.request.urlopen('http://x')", "No module named"),
    "starts a process": ("import subprocess\nsubprocess.run(['id'])", "No module named"),
    "starts a shell": ("import os\nos.system('id')", "no attribute 'system'"),
    "loads C": ("import ctypes\nctypes.string_at(0)", "No module named"),
    "imports by name": ("answer = __import__('subprocess').run(['id'])", "__import__"),
    "imports by importlib": ("import importlib\nimportlib.import_module('socket')", "No module named"),
    "climbs the classes": ("answer = ().__class__.__mro__[1].__subclasses__()", "no attribute '__class__'"),
    "climbs the frames": ("def f(): pass\nanswer = f.__globals__['__builtins__']", "no attribute"),
    "climbs a format": ("answer = '{0.__class__.__mro__}'.format(1)", "no attribute '__class__'"),
    "loops for ever": ("while True:\n    pass", "limit"),
    "counts for ever": ("answer = sum(1 for _ in iter(int, 1))", "limit"),
    "sleeps": ("import time\ntime.sleep(100)", "limit"),
    "hoards memory": ("x = []\nwhile True:\n    x.append('a' * 1000)", "limit exceeded"),
    "hoards at once": ("x = ['a'] * 10**10", "memory limit"),
    "prints for ever": ("while True:\n    print('x' * 1000)", "printed more than"),
    "prints a little too much": ("print('x' * 2500)", "printed more than"),
    "answers at length": ("answer = 'x' * 10**7", "printed more than"),
    "recurses": ("def f(n):\n    return f(n + 1)\nf(0)", "recursion"),
    "recurses in a repr": ("x = []\nfor _ in range(10**5):\n    x = [x]\nanswer = str(x)", ""),
    "has a huge power": ("answer = 10**10**10", "memory limit"),
    "has a long power": ("answer = 7**7**7", "limit"),
    "nests deep": ("answer = " + "(" * 9000 + "1" + ")" * 9000, "nested"),
    "backtracks": ("import re\nanswer = re.match(r'(a+)+$', 'a' * 40 + 'b')", ""),
    "evaluates": ("answer = eval('open(\"/etc/passwd\").read()')", "Permission denied"),
    "asks": ("answer = input()", "input"),
    "is no program": ("I would rather talk.", "SyntaxError"),
    "holds a null": ("x = '\x00'", ""),
    "is too long": ("x = 1\n" * 10_000, "longer than"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_gets_nothing_and_the_reason(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("veridical.strategies.tools.python.GRACE_S", 60)  # the interpreter's own words
    code, words = HOSTILE[name]
    done = asyncio.run(PythonSandbox().run(code))
    if words:
        assert words in (done.error or "")
        assert done.result is None
    assert len(done.output) <= 2000
    assert len(done.error or "") < 400
    assert not Path("/tmp/veridical-was-here").exists()


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_is_over_in_two_seconds(name: str) -> None:
    began = time.monotonic()
    asyncio.run(PythonSandbox().run(HOSTILE[name][0]))
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("code", "output", "answer"),
    [
        ("answer = 6 * 7", "", "42"),
        ("print('steps')\nanswer = 1 / 4", "steps", "0.25"),
        ("print(12)", "12", None),
        ("def main():\n    print(12)\n\nif __name__ == '__main__':\n    main()", "12", None),
        ("import math\nfrom datetime import date\nanswer = math.comb(5, 2)", "", "10"),
        ("answer = None", "", "None"),
        ("answer = 'Zürich 🐨'", "", "Zürich 🐨"),
        ("answer = 3  # no newline at the end", "", "3"),
        ("", "", None),
    ],
)
def test_a_program_tells_what_it_printed_and_its_answer(code: str, output: str, answer: str | None) -> None:
    done = asyncio.run(PythonSandbox().run(code))
    assert (done.output, done.answer, done.error) == (output, answer, None)


def test_an_error_names_its_line() -> None:
    done = asyncio.run(PythonSandbox().run("x = 1\nprint('so far')\nanswer = x / 0"))
    assert done.output == "so far"
    assert done.error == "ZeroDivisionError: division by zero (line 3)"


def test_no_more_programs_run_at_once_than_allowed() -> None:
    async def main() -> float:
        tool = PythonSandbox(seconds=0.3, processes=1)
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(tool.run("while True: pass"))
        return time.monotonic() - began

    assert asyncio.run(main()) > 0.9


def running_programs(parent: int) -> set[int]:
    """Children of a process that have become the interpreter: past the launcher."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            of = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            command = (folder / "cmdline").read_bytes().split(b"\0")[0]
            if of == parent and command.endswith(b"monty"):
                found.add(int(folder.name))
    return found


@LINUX
def test_a_cancelled_run_leaves_no_process() -> None:
    async def main() -> None:
        task = asyncio.create_task(PythonSandbox(seconds=30).run("while True: pass"))
        await asyncio.to_thread(wait_until, lambda: running_programs(os.getpid()), 20)
        task.cancel()
        began = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - began < 10
        assert not running_programs(os.getpid())

    asyncio.run(main())


#: Real CPython in the place of Monty: what a program could do that has broken out of it.
BROKEN_OUT = """
import json, os, resource, socket
def tried(what):
    try:
        return repr(what())
    except Exception as error:
        return type(error).__name__
names = [name for name in dir(resource) if name.startswith("RLIMIT_")]
limits = {name: resource.getrlimit(getattr(resource, name))[0] for name in names}
print(json.dumps({
    "uid": os.getuid(), "environment": dict(os.environ), "folder": os.getcwd(),
    "network": [name for _, name in socket.if_nameindex()],
    "connects": tried(lambda: socket.create_connection(("127.0.0.1", PORT), timeout=1)),
    "forks": tried(os.fork),
    "writes": tried(lambda: os.write(os.open("/tmp/veridical-broke-out", os.O_WRONLY | os.O_CREAT), b"x")),
    "hoards": tried(lambda: len(bytearray(2**30))),
    "open": sorted(int(fd) for fd in os.listdir("/proc/self/fd")),
    "limits": limits,
}))
"""


@LINUX
def test_who_breaks_out_of_the_interpreter_finds_nothing_to_use(upstream: Upstream) -> None:
    port = upstream.url.split(":")[2].split("/")[0]
    command = [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), "2", "512", "--"]
    program = BROKEN_OUT.replace("PORT", port).encode()
    done = subprocess.run(
        [*command, sys.executable, "-I", "-S"],
        input=program,
        env={"SECRET": "sk-of-the-server"},
        capture_output=True,
        start_new_session=True,
        timeout=10,
        check=False,
    )
    found = json.loads(done.stdout)
    assert found["uid"] != 0
    assert "SECRET" not in found["environment"]
    assert found["forks"] == "BlockingIOError"
    assert found["hoards"] == "MemoryError"
    assert found["limits"]["RLIMIT_FSIZE"] == found["limits"]["RLIMIT_CORE"] == 0
    assert found["limits"]["RLIMIT_CPU"] == 2
    assert max(found["open"]) <= 5  # the program, CPython's own handle of it, and the listing itself
    if user_namespaces():
        assert found["network"] in ([], ["lo"])
        assert found["connects"] != repr(None)
        assert "Error" in found["connects"]


def user_namespaces() -> bool:
    """Whether this kernel lets us have a network of our own."""
    flag = [] if os.geteuid() == 0 else ["--user"]
    try:
        return (
            subprocess.run(["unshare", *flag, "--net", "true"], capture_output=True, check=False).returncode
            == 0
        )
    except FileNotFoundError:
        return False


@LINUX
def test_a_program_dies_with_the_server() -> None:
    code = (
        "import asyncio\nfrom veridical.strategies.tools.python import PythonSandbox\n"
        "asyncio.run(PythonSandbox(seconds=30).run('while True: pass'))"
    )
    server = subprocess.Popen([sys.executable, "-c", code])
    wait_until(lambda: running_programs(server.pid), 30)
    programs = running_programs(server.pid)
    server.send_signal(signal.SIGKILL)
    server.wait()
    wait_until(lambda: not any(_alive(number) for number in programs), 10)


def _alive(number: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def hostile_model(upstream: Upstream, code: str) -> None:
    """Scripts a model that writes this program whenever it is asked for one."""
    program = Say(f"```python\n{code}\n```")
    critique = Say(json.dumps({"check": "Fine.", "verdict": "right"}))
    steps = {"program": program, "program_again": program, "program_critique": critique, "result": Say("X")}
    upstream.on(draft=Say("A draft."), **{f"critic/{name}": step for name, step in steps.items()})


@pytest.mark.parametrize(
    "name",
    [
        "reads a file", "opens a connection", "starts a process", "loops for ever", "hoards memory",
        "prints for ever", "imports by name", "climbs the classes", "recurses", "has a huge power",
    ],
)  # fmt: skip
def test_through_the_proxy_the_draft_comes_back_and_others_are_served_meanwhile(
    proxy: Proxy, upstream: Upstream, name: str
) -> None:
    hostile_model(upstream, HOSTILE[name][0])
    proxy.ask(model="m1")  # the SDK and the connection are ready
    waited = []
    answers = []

    def asking() -> None:
        answers.append(proxy.ask(model="m1+critic(tool=python,max_rounds=1)").to_dict())

    client = threading.Thread(target=asking)
    client.start()
    while client.is_alive():
        asked = time.monotonic()
        assert proxy.request("GET", "/health").status == 200
        waited.append(time.monotonic() - asked)
        client.join(0.05)
    assert sorted(waited)[len(waited) // 2] < 1
    (answer,) = answers
    assert answer["choices"][0]["message"]["content"] == "A draft."
    assert answer["veridical"]["status"] == "unchanged"
    assert "No program gave a result" in answer["veridical"]["notes"][0]
    report = upstream.asked("critic/program_again")[0].prompt
    assert HOSTILE[name][1] in report or "ran longer than" in report


def test_a_sound_program_answers_through_the_proxy(serve: Serve, upstream: Upstream) -> None:
    hostile_model(upstream, "answer = 6 * 7")
    proxy = serve(tools={"python": {"type": "python", "seconds": 20}})
    answer = proxy.ask(model="m1+critic(tool=python)").to_dict()
    assert answer["choices"][0]["message"]["content"] == "X"
    assert answer["veridical"]["claims"][0]["text"] == "The program gives 42."
    assert answer["veridical"]["calls"] == 5
