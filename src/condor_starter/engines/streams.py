"""A container's standard streams: from the engine's attach socket into descriptors, and back for stdin.

The socket carries frames (docker's stream format: one byte stream number, three zero bytes, the length as
four bytes big-endian, the payload). asyncio reads it, so a running container costs no thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import stat
from collections.abc import Callable, Iterator

from condor_starter.job import Hold, JobError

_CHUNK = 1 << 16
_NAMES = {1: "standard output", 2: "standard error"}


class Frames:
    """The incremental parser of one attach stream."""

    def __init__(self) -> None:
        self._head = b""
        self._stream = 0
        self._left = 0

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """(stream, payload) pieces in order; a frame may come in several. Raises ValueError for no frame."""
        view = memoryview(data)
        while view:
            if self._left:
                piece, view = view[: self._left], view[self._left :]
                self._left -= len(piece)
                yield self._stream, bytes(piece)
                continue
            need = 8 - len(self._head)
            self._head, view = self._head + bytes(view[:need]), view[need:]
            if len(self._head) == 8:
                self._begin()

    def _begin(self) -> None:
        head, self._head = self._head, b""
        if head[0] not in _NAMES or head[1:4] != b"\0\0\0":
            raise ValueError(f"not a frame of a container's output: {head!r}")
        self._stream, self._left = head[0], int.from_bytes(head[4:], "big")

    @property
    def between(self) -> bool:
        """True where a stream may end: between two frames."""
        return not self._left and not self._head


class Pump:
    """Moves one container's output from ``sock`` (owned, non-blocking) to descriptors that the caller owns.

    ``stdout``, ``stderr``, ``stdin``: descriptors, or None for none. :meth:`run` ends when the engine closes
    the stream. It raises :class:`JobError` 7 for an output that cannot be written, ValueError for no frames.
    """

    def __init__(
        self, sock: socket.socket, stdin: int | None, stdout: int | None, stderr: int | None
    ) -> None:
        self._sock = sock
        self._stdin = stdin
        self._sinks = {1: stdout, 2: stderr}
        self.moved = 0  # bytes of output written so far: tells a slow reader from none

    async def run(self) -> None:
        feeder = asyncio.create_task(self._feed()) if self._stdin is not None else None
        try:
            await self._drain()
        finally:
            if feeder:
                feeder.cancel()
                await asyncio.gather(feeder, return_exceptions=True)

    def close(self) -> None:
        """Let go of the socket."""
        self._sock.close()

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        frames = Frames()
        while data := await _received(loop, self._sock):
            for stream, payload in frames.feed(data):
                await self._write(stream, payload)
        if not frames.between:
            raise ValueError("the container's output was cut in the middle of a frame")

    async def _write(self, stream: int, payload: bytes) -> None:
        fd = self._sinks[stream]
        if fd is not None:
            try:
                await _write_all(fd, payload)
            except OSError as e:
                text = f"Failed to write the job's {_NAMES[stream]}: {e.strerror} (errno {e.errno})"
                raise JobError(Hold.UNABLE_TO_OPEN_OUTPUT, e.errno or 0, text) from e
        self.moved += len(payload)

    async def _feed(self) -> None:
        """Send stdin to its end, then close that direction. The job may stop reading: its own affair."""
        assert self._stdin is not None
        loop = asyncio.get_running_loop()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while data := await _read_some(loop, self._stdin):
                await loop.sock_sendall(self._sock, data)
        with contextlib.suppress(OSError):  # the engine has closed it
            self._sock.shutdown(socket.SHUT_WR)


async def _received(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> bytes:
    try:
        return await loop.sock_recv(sock, _CHUNK)
    except ConnectionResetError:
        return b""  # the engine went away: its events say so, too


async def _read_some(loop: asyncio.AbstractEventLoop, fd: int) -> bytes:
    """The next bytes of ``fd``; none at its end, and none where it cannot be read on."""
    blocking = _may_block(fd)
    while True:
        if blocking:
            await _ready(loop.add_reader, loop.remove_reader, fd)
        try:
            return os.read(fd, _CHUNK)
        except BlockingIOError:
            continue  # somebody else was faster
        except OSError:
            return b""


def _may_block(fd: int) -> bool:
    """True for pipes, sockets and terminals; files and /dev/null never wait (and epoll refuses them)."""
    mode = os.fstat(fd).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        return True
    return stat.S_ISCHR(mode) and os.isatty(fd)


async def _write_all(fd: int, data: bytes) -> None:
    """Write everything. A pipe that nobody reads stops the job, as it would without a container, not us."""
    loop = asyncio.get_running_loop()
    blocking = _may_block(fd)
    view = memoryview(data)
    while view:
        if blocking:
            await _ready(loop.add_writer, loop.remove_writer, fd)
        with contextlib.suppress(BlockingIOError):
            # a writable pipe has room for PIPE_BUF bytes: so much never blocks
            view = view[os.write(fd, view[: select.PIPE_BUF] if blocking else view) :]


async def _ready(add: Callable[..., None], remove: Callable[[int], bool], fd: int) -> None:
    """Wait until ``fd`` is ready. A duplicate is watched: stdout and stderr may be one descriptor."""
    watched = os.dup(fd)
    ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    try:
        add(watched, _settle, ready)
        await ready
    finally:
        remove(watched)
        os.close(watched)


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
