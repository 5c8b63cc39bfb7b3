"""Client of the sandbox worker: opens a job's files with the job user's ids, beneath its scratch directory.

The worker itself is a child of procd (:mod:`condor_starter.procd.worker`); it only passes descriptors back,
so neither root nor this process ever follows a path that a job can change.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from dataclasses import dataclass
from typing import Any

from condor_starter.procd.passing import receive_fds

MAX_MESSAGE = 65536


class WorkerGone(ConnectionError):
    """The worker's process has ended: its box was destroyed, or procd is gone."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One directory entry, from lstat(2): ``kind`` is file, dir, link or other."""

    name: str
    kind: str
    size: int  # bytes
    mode: int  # permission bits
    mtime_ns: int
    ctime_ns: int
    inode: int


class SandboxWorker:
    """Requests to one worker; names are relative to the scratch directory and never leave it (openat2).

    Every method raises OSError with the worker's errno (ELOOP or EXDEV for a name that would lead out),
    or :class:`WorkerGone`.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._lock = asyncio.Lock()

    async def open(self, name: str, flags: int = os.O_RDONLY, mode: int = 0o600) -> int:
        """A descriptor of ``name``; the caller closes it. Regular files only (a FIFO would hang us)."""
        _, fds = await self._call({"op": "open", "name": name, "flags": flags, "mode": mode})
        return fds[0]

    async def listdir(self, name: str = ".") -> list[Entry]:
        """The entries of directory ``name``, unsorted, without ``.`` and ``..``."""
        entries: list[Entry] = []
        after = 0
        while True:
            reply, _ = await self._call({"op": "list", "name": name, "after": after})
            entries += [Entry(*e) for e in reply["entries"]]
            after = reply["next"]
            if not after:
                return entries

    async def stat(self, name: str) -> Entry:
        """lstat(2) of ``name``."""
        reply, _ = await self._call({"op": "stat", "name": name})
        return Entry(*reply["entry"])

    async def mkdir(self, name: str, mode: int = 0o755) -> None:
        await self._call({"op": "mkdir", "name": name, "mode": mode})

    async def rename(self, old: str, new: str) -> None:
        await self._call({"op": "rename", "name": old, "new": new})

    async def remove(self, name: str) -> None:
        """unlink(2), or rmdir(2) for a directory."""
        await self._call({"op": "remove", "name": name})

    def close(self) -> None:
        """End the worker: it exits when its socket closes."""
        self._sock.close()

    async def _call(self, request: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
        async with self._lock:
            loop = asyncio.get_running_loop()
            try:
                await loop.sock_sendall(self._sock, json.dumps(request).encode())
            except (BrokenPipeError, ConnectionResetError) as e:
                raise WorkerGone("the sandbox worker is gone") from e
            data, fds = await self._receive(loop)
        reply = json.loads(data)
        if "errno" in reply:
            raise OSError(reply["errno"], os.strerror(reply["errno"]), request["name"])
        return reply, fds

    async def _receive(self, loop: asyncio.AbstractEventLoop) -> tuple[bytes, list[int]]:
        while True:
            try:
                data, fds, _ = receive_fds(self._sock, MAX_MESSAGE, 4)
            except BlockingIOError:
                await _readable(loop, self._sock)
                continue
            if not data:
                raise WorkerGone("the sandbox worker is gone")
            return data, fds


async def _readable(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(sock, ready.set_result, None)
    try:
        await ready
    finally:
        loop.remove_reader(sock)
