"""Runs one engine and takes it down with the proxy, even when the proxy is killed outright.

    python engine_guard.py GRACE_SECONDS -- COMMAND ...

The proxy holds the other end of our standard input. When that closes, for whatever reason, the
engine's whole process group gets SIGTERM and, after the grace, SIGKILL. The guard ends with the
engine and passes its exit status on. It is started by its path, outside the package and with the
standard library only, so that it costs some 10 MB and some 20 ms.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

PR_SET_PDEATHSIG = 1  # <sys/prctl.h>


def main(argv: list[str]) -> int:
    """Run the command to its end and return its exit status (128 + N for a signal N, as shells do)."""
    grace, command = float(argv[0]), argv[2:]
    try:
        engine = _started(command)
    except OSError as error:
        print(f"engine_guard: cannot start {command[0]!r}: {error.strerror}", file=sys.stderr)  # noqa: T201
        return 127
    signal.signal(signal.SIGTERM, lambda *_: _in_background(_end, engine.pid, grace))
    _in_background(_end_at_eof, engine.pid, grace)
    # The engine stays a zombie until its group is cleared: its number cannot be given away before.
    os.waitid(os.P_PID, engine.pid, os.WEXITED | os.WNOWAIT)
    _signal_group(engine.pid, signal.SIGKILL)
    status = engine.wait()
    return status if status >= 0 else 128 - status


def _started(command: list[str]) -> subprocess.Popen[bytes]:
    """The engine as leader of a group of its own.

    Should the guard itself be killed, the kernel kills the engine (Linux), and an engine that
    reads its standard input finds it closed (everywhere).
    """
    # Python makes us promise that nothing else runs between fork and exec: there is one thread yet.
    return subprocess.Popen(  # noqa: S603
        command, stdin=subprocess.PIPE, start_new_session=True, preexec_fn=_death_wish()
    )


def _death_wish() -> Callable[[], None] | None:
    if not sys.platform.startswith("linux"):
        return None
    import ctypes

    prctl, guard = ctypes.CDLL(None).prctl, os.getpid()

    def die_with_guard() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard:  # it died before the call above: no signal will come
            os._exit(1)

    return die_with_guard


def _end_at_eof(group: int, grace: float) -> None:
    while os.read(0, 4096):
        pass
    _end(group, grace)


def _end(group: int, grace: float) -> None:
    _signal_group(group, signal.SIGTERM)
    time.sleep(grace)  # the process ends under us as soon as the engine has
    _signal_group(group, signal.SIGKILL)


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS says so of a zombie's group
        os.killpg(group, number)


def _in_background(work: Callable[..., None], *args: float) -> None:
    threading.Thread(target=work, args=args, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
