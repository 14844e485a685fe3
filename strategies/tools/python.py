"""The python tool: a program runs in Monty, in a short-lived process of its own (extra `python-tool`).

Two walls stand between a program and the server. Monty is an interpreter for a subset of Python, written
in Rust, that has no files, network, processes or environment to give. It runs in a child process that has
given up its rights (`sandbox.py`), not in ours: a hole or a crash in the interpreter meets those. We read
a bounded number of bytes from a pipe, and kill the child's process group at the deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import signal
import sys
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from veridical.strategies.concurrency import concurrently
from veridical.strategies.errors import ConfigError
from veridical.strategies.tools.base import Execution, Interpreter

LAUNCHER = Path(__file__).with_name("sandbox.py")
#: Address space that the interpreter itself takes, beside the program's memory.
INTERPRETER_MB = 256
#: Seconds beyond the program's own in which the child must have started and ended.
GRACE_S = 0.7
MAX_CODE_CHARS = 20_000
#: A traceback repeats the line at fault, twice; a program may consist of one line.
MAX_STDERR_BYTES = 20 * MAX_CODE_CHARS

#: Behind the program: tells its variable `answer`, if it has one, after a mark it cannot know.
_EPILOGUE = """
try:
    answer
except NameError:
    pass
else:
    print({mark!r}, answer)
"""


def monty_binary() -> str:
    """The interpreter's path.

    Raises:
        ConfigError: the extra is not installed.
    """
    try:
        files = metadata.files("pydantic-monty-runtime") or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if Path(file).stem == "monty":
            return str(Path(str(file.locate())).resolve())
    raise ConfigError("The tool 'python' needs the extra: pip install 'veridical[python-tool]'.")


_LIMITS = ("--max-recursion-depth=400", "--max-suspensions=20", "--max-total-sleep=0.5")


class _TooMuch(Exception):
    """More came out than is read; holds what did."""

    def __init__(self, head: bytes) -> None:
        super().__init__()
        self.head = head


@dataclass(frozen=True)
class PythonSandbox(Interpreter):
    """Runs programs, at most `processes` at once; each gets `seconds`, `memory_mb` for its values and
    `output_chars` to print.

    Raises:
        ConfigError: the extra is not installed.
    """

    seconds: float = 1.0
    memory_mb: int = 64
    output_chars: int = 2000
    processes: int = 4
    binary: str = field(default_factory=monty_binary)
    _slots: list[asyncio.Semaphore] = field(default_factory=list, init=False, repr=False, compare=False)

    async def run(self, code: str) -> Execution:
        """Run a program to its end or its limits.

        Raises:
            OSError: the child cannot be started.
        """
        if len(code) > MAX_CODE_CHARS:
            return Execution(error=f"The program is longer than {MAX_CODE_CHARS} characters.")
        if not self._slots:
            self._slots.append(asyncio.Semaphore(self.processes))
        async with self._slots[0]:
            return await self._run(code)

    async def _run(self, code: str) -> Execution:
        mark = secrets.token_hex(16)
        child = await self._started()
        try:
            async with asyncio.timeout(self.seconds + GRACE_S):
                source = (code + _EPILOGUE.format(mark=mark)).encode("utf-8", "replace")
                out, err = await self._communicate(child, source)
                status = await child.wait()
        except TimeoutError:
            return Execution(error=f"The program ran longer than {self.seconds:g} s.")
        except _TooMuch as much:
            return self._cut(much.head.decode("utf-8", "replace"))
        finally:
            await _end(child)
        text = out.decode("utf-8", "replace")
        if len(text) > self.output_chars + len(mark):
            return self._cut(text)
        output, marked, answer = text.partition(mark)
        error = _fault(err.decode("utf-8", "replace"), status) if status else None
        return Execution(output.strip("\n"), answer.strip() if marked else None, error)

    def _cut(self, text: str) -> Execution:
        error = f"The program printed more than {self.output_chars} characters."
        return Execution(text[: self.output_chars], error=error)

    async def _started(self) -> asyncio.subprocess.Process:
        launcher = [sys.executable, "-I", "-S", str(LAUNCHER)]
        bounds = [str(os.getpid()), str(int(self.seconds) + 2), str(self.memory_mb + INTERPRETER_MB), "--"]
        limits = [f"--max-feed-duration={self.seconds}", f"--max-memory={self.memory_mb}MB", *_LIMITS]
        return await asyncio.create_subprocess_exec(
            *launcher,
            *bounds,
            self.binary,
            *limits,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={},
            cwd="/",
            start_new_session=True,
        )

    async def _communicate(self, child: asyncio.subprocess.Process, source: bytes) -> tuple[bytes, bytes]:
        assert child.stdin  # noqa: S101 - all three are pipes
        assert child.stdout  # noqa: S101
        assert child.stderr  # noqa: S101
        child.stdin.write(source)
        child.stdin.close()
        most = 4 * self.output_chars + 100  # bytes of a character, and the mark
        bounds = ((child.stdout, most), (child.stderr, MAX_STDERR_BYTES))
        out, err = await concurrently(lambda bound: _read(*bound), bounds)
        return out, err


async def _read(stream: asyncio.StreamReader, most: int) -> bytes:
    data = b""
    while chunk := await stream.read(65536):
        data += chunk
        if len(data) > most:
            raise _TooMuch(data[:most])
    return data


async def _end(child: asyncio.subprocess.Process) -> None:
    """Kill the whole group if it still runs; empty the pipes, or asyncio would keep them open."""
    if child.returncode is None:
        with contextlib.suppress(ProcessLookupError):  # it ended by itself just now
            os.killpg(child.pid, signal.SIGKILL)
    for stream in (child.stdout, child.stderr):
        while stream and await stream.read(65536):
            pass
    await child.wait()


_TIMING = re.compile(r"\A[\d.]+\S*s ❯ (?:error: )?")
_LINE = re.compile(r'File "[^"]*", line (\d+)')


def _fault(stderr: str, status: int) -> str:
    """What ended a program, in one line: the traceback's last, and where."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    if not lines or status < 0:
        return "The program crashed the interpreter."
    places = _LINE.findall(stderr)
    where = f" (line {places[-1]})" if places else ""
    return _TIMING.sub("", lines[-1])[:300] + where
