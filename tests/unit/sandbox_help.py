"""The real sandbox worker on a directory of a test's own, as a child of ours instead of procd's."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from condor_starter.procd import worker as procd_worker
from condor_starter.sandbox.worker import SandboxWorker


@contextlib.contextmanager
def sandbox_worker(directory: Path) -> Iterator[SandboxWorker]:
    """A worker with our own ids; it ends with the block."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        ours.close()
        try:
            procd_worker.serve(os.open(directory, os.O_RDONLY), theirs)
        finally:
            os._exit(0)
    theirs.close()
    worker = SandboxWorker(ours)
    try:
        yield worker
    finally:
        worker.close()
        os.waitpid(pid, 0)
