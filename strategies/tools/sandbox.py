"""Runs one untrusted program with as few rights as the kernel lets us take away.

    python -I -S sandbox.py PARENT CPU_SECONDS MEMORY_MB -- COMMAND ... < PROGRAM

Becomes `COMMAND ... FILE`, where FILE holds PROGRAM. It is started by its path, outside the package
and with the standard library only, so that it starts fast and has nothing of ours in memory.
COMMAND is an interpreter that grants nothing (Monty); what is taken away here counts should that one
have a hole: no network, no root, no file written, no further process or thread, no core dump, bounded
memory and processor time, and death with whoever started it. What the kernel refuses to take (no
user namespaces in some containers, nothing but limits on macOS) is left as it is.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

# <sched.h>, <sys/prctl.h>
CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWNET = 0x08000000, 0x10000000, 0x40000000
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
NOBODY = 65534


def main(argv: list[str]) -> None:
    """Read the program, give up what can be given up, and become the command."""
    parent, cpu_seconds, memory_mb = map(int, argv[:3])
    command = argv[4:]
    program = _as_file(sys.stdin.buffer.read())
    executable: int | str = command[0]
    if os.execve in os.supports_fd:  # opened while we may: its folder can be closed to nobody
        executable = os.open(command[0], os.O_RDONLY)
    _isolate(parent)
    _limit(cpu_seconds, memory_mb * 2**20)
    os.execve(executable, [*command, f"/dev/fd/{program}"], {})  # noqa: S606


def _as_file(program: bytes) -> int:
    """A file that has no name, open for the command too."""
    if sys.platform == "linux":
        number = os.memfd_create("program", 0)
    else:
        import tempfile

        number, path = tempfile.mkstemp()
        os.unlink(path)  # noqa: PTH108
        os.set_inheritable(number, True)
    with os.fdopen(os.dup(number), "wb") as file:
        file.write(program)
    os.lseek(number, 0, os.SEEK_SET)
    return number


def _isolate(parent: int) -> None:
    """No network, no way back up, no life without the parent; a root server's program runs as nobody."""
    root = os.geteuid() == 0
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.unshare(CLONE_NEWNET | CLONE_NEWIPC | (0 if root else CLONE_NEWUSER))
    if root:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    if sys.platform == "linux":
        libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the call above: no signal will come
        sys.exit(1)


def _limit(cpu_seconds: int, memory: int) -> None:
    for what, most in (
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 16),
        (resource.RLIMIT_NPROC, 0),
    ):
        resource.setrlimit(what, (most, most))


if __name__ == "__main__":
    main(sys.argv[1:])
