"""When processes fork, exec, change their user and end: the kernel tells, and the watched do not notice.

The proc connector (linux/cn_proc.h) sends one message for each event of the whole machine, stamped in the
kernel. A child of ours only writes them down; :func:`read` makes processes of them afterwards.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

_CONNECTOR = 11  # NETLINK_CONNECTOR
_GROUP = 1  # CN_IDX_PROC, and CN_VAL_PROC
_SO_RCVBUFFORCE = 33
_HEADER = 36  # nlmsghdr and cn_msg
_EVENT = struct.Struct("=IIQ")  # what, cpu, nanoseconds
_FORK, _EXEC, _UID, _EXIT = 1, 2, 4, 0x80000000


@dataclass(slots=True)
class Process:
    """What is known of one process; times in nanoseconds of the kernel's clock."""

    pid: int
    parent: Process | None = None  # None: older than the recording
    forked: int = 0
    execs: list[int] = field(default_factory=list)
    uids: set[int] = field(default_factory=set)  # real uids that it took
    exited: int = 0


def record(path: str) -> None:
    """Write down events until SIGTERM. What the child of :func:`recording` does."""
    with (
        socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _CONNECTOR) as sock,
        open(path, "wb", buffering=0) as out,
    ):
        sock.bind((os.getpid(), _GROUP))
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 64 << 20)
        sock.send(struct.pack("=IHHIIIIIIHHI", 40, 3, 0, 0, os.getpid(), _GROUP, 1, 0, 0, 4, 0, 1))
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        out.write(bytes(2))  # an empty message: we listen
        while True:
            data = sock.recv(8192)
            out.write(len(data).to_bytes(2, "little") + data)


@contextlib.contextmanager
def recording() -> Iterator[Path]:
    """Events of the machine during the block, in the file that is given; it goes with the block."""
    with tempfile.NamedTemporaryFile(prefix="pool-events.") as file:
        child = subprocess.Popen([sys.executable, __file__, file.name])
        try:
            end = time.monotonic() + 20
            while not os.path.getsize(file.name):
                assert time.monotonic() < end, "no process events: the kernel or our rights do not allow them"
                time.sleep(0.01)
            yield Path(file.name)
        finally:
            child.terminate()
            child.wait(10)


def read(path: Path) -> list[Process]:
    """The processes that began during a recording, oldest first. Two may have had the same pid."""
    found: list[Process] = []
    now: dict[int, Process] = {}  # who has a pid at the moment
    for what, when, numbers in _events(path.read_bytes()):
        _take(found, now, what, when, numbers)
    return found


def _events(data: bytes) -> Iterable[tuple[int, int, tuple[int, ...]]]:
    at = 0
    while at + 2 <= len(data):
        size = int.from_bytes(data[at : at + 2], "little")
        message = data[at + 2 : at + 2 + size]
        at += 2 + size
        if len(message) >= _HEADER + _EVENT.size + 16:
            what, _, when = _EVENT.unpack_from(message, _HEADER)
            yield what, when, struct.unpack_from("=IIII", message, _HEADER + _EVENT.size)


def _take(
    found: list[Process], now: dict[int, Process], what: int, when: int, numbers: tuple[int, ...]
) -> None:
    """One event: fork has (parent's thread, parent, child's thread, child), others (thread, process, ...)."""
    if what == _FORK:
        _, parent, thread, pid = numbers
        if thread == pid:  # not a thread
            child = now[pid] = Process(pid, now.setdefault(parent, Process(parent)), when)
            found.append(child)
        return
    thread, pid, value, _ = numbers
    process = now.setdefault(pid, Process(pid))
    if what == _EXEC:
        process.execs.append(when)
    elif what == _UID:
        process.uids.add(value)
    elif what == _EXIT and thread == pid:
        process.exited = when


if __name__ == "__main__":
    record(sys.argv[1])
