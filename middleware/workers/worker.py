"""One of several workers: what it has inherited from its parent."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from veridical.middleware.workers.parent import Parent


@dataclass(frozen=True)
class Worker:
    """Where this process listens, and its line to the parent."""

    listener: socket.socket
    parent: Parent

    @classmethod
    def inherited(cls, descriptors: str) -> Worker:
        """From the two descriptors that `serving.worker_command` names, as LISTENER,LINE."""
        listener, line = map(int, descriptors.split(","))
        return cls(socket.socket(fileno=listener), Parent(socket.socket(fileno=line)))
