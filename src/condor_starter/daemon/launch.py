"""Starting a procd by hand, where no service manager does: detached, so that it outlives starterd."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from condor_starter.procd import main as procd_main


class LaunchError(Exception):
    """procd did not start; the text says why."""


def listens(run: Path) -> bool:
    """True if a procd serves the run directory."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as probe:
        return probe.connect_ex(f"{run}/procd.sock") == 0


def procd(run: Path, settings: Sequence[str], log: Path, seconds: float) -> int:
    """Start a listening procd that serves ``run`` in a session of its own; returns its pid.

    Its parent is init, so that nobody has to reap it; what it says goes to ``log``, in a directory of its own
    account. Raises LaunchError when it ends at once, or does not listen within ``seconds``.
    """
    argv = [sys.executable, "-I", "-S", procd_main.__file__, *(f"--set={s}" for s in settings)]
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _between(argv, log, writer)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as file:
        pid = int(file.read() or 0)
    _until_it_listens(run, pid, log, seconds)
    return pid


def _between(argv: list[str], log: Path, writer: int) -> None:
    """The process between us and procd: procd becomes init's when this one exits."""
    try:
        os.setsid()
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        fresh = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        actions: list[tuple[object, ...]] = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), fresh, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        pid = os.posix_spawn(argv[0], argv, env, file_actions=actions)
        os.write(writer, str(pid).encode())
    finally:
        os._exit(0)


def _until_it_listens(run: Path, pid: int, log: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not listens(run):
        if not pid or not os.path.exists(f"/proc/{pid}"):
            raise LaunchError(f"condor_starter_procd did not start; {log} says why")
        if time.monotonic() > deadline:
            raise LaunchError(f"condor_starter_procd (pid {pid}) does not listen after {seconds:.0f} seconds")
        time.sleep(0.01)
