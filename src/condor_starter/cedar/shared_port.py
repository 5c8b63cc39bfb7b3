"""Being one daemon behind a shared port: connections arrive as descriptors over a named socket."""

from __future__ import annotations

import array
import asyncio
import os
import socket
import stat

from condor_starter.cedar.codec import Reader, Writer
from condor_starter.cedar.commands import Command
from condor_starter.cedar.errors import PeerClosed, ProtocolError
from condor_starter.cedar.wire import HEADER, Wire

_NOTE_SIZE = HEADER.size + 8  # one packet with one integer
_FDS = array.array("i")
_ROOM = socket.CMSG_SPACE(4 * _FDS.itemsize)  # for one, and to see (and close) what should not be there


async def receive_connection(sock: socket.socket) -> socket.socket:
    """The connection that the shared port passes over ``sock``, which the caller closes.

    Exactly the 13 bytes of its note are read before the descriptor: reading one more would take the byte that
    carries it. Raises CedarError.
    """
    wire = Wire(limit=_NOTE_SIZE)
    loop = asyncio.get_running_loop()
    got = 0
    try:
        while got < _NOTE_SIZE:
            data = await loop.sock_recv(sock, _NOTE_SIZE - got)
            if not data:
                raise PeerClosed("the shared port closed the connection")
            wire.feed(data)
            got += len(data)
        _check_note(wire)
        await _readable(sock)
        return _take(sock)
    except OSError as e:
        if isinstance(e, ConnectionError):
            raise
        raise ProtocolError(f"no connection came from the shared port: {e.strerror}") from None


def pass_connection(sock: socket.socket, connection: socket.socket) -> None:
    """The other side of :func:`receive_connection`, as a shared port does it."""
    sock.sendall(Wire().pack(Writer(False).integer(Command.SHARED_PORT_PASS_SOCK).payload()))
    socket.send_fds(sock, [b"\0"], [connection.fileno()])


def _check_note(wire: Wire) -> None:
    message = wire.next_message()
    if message is None:
        raise ProtocolError("the shared port's note is not one packet")
    note = Reader(message, encrypted=False)
    if note.integer() != Command.SHARED_PORT_PASS_SOCK:
        raise ProtocolError("the shared port sent something else than a connection")
    note.end()


def _take(sock: socket.socket) -> socket.socket:
    data, ancillary, _, _ = sock.recvmsg(1, _ROOM, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    if len(data) == 1 and len(fds) == 1 and _is_connection(fds[0]):
        return socket.socket(fileno=fds[0])
    for fd in fds:
        os.close(fd)
    raise ProtocolError(f"the shared port passed {len(fds)} descriptors that are no connection")


def _is_connection(fd: int) -> bool:
    """A connected stream socket, and not a listener or a file that would make us do something else."""
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        return False
    with socket.socket(fileno=os.dup(fd)) as probe:
        kind = probe.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
        listens = probe.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        return kind == socket.SOCK_STREAM and not listens


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(sock, _set, ready)
    try:
        await ready
    finally:
        loop.remove_reader(sock)


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
