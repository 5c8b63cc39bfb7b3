"""What a startd leaves to its starter, opened: the connections to itself and to the shadow, and our command
port.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from condor_starter.cedar.cipher import Aes
from condor_starter.cedar.errors import CedarError
from condor_starter.cedar.inherit import Inheritance, InheritedSocket, parse_inherit, parse_private
from condor_starter.cedar.sessions import Session
from condor_starter.cedar.sinful import Sinful
from condor_starter.cedar.stream import Stream
from condor_starter.cedar.wire import Wire
from condor_starter.communicators.startd_link import StartdLink


@dataclass(frozen=True, slots=True)
class Inherited:
    """The descriptors are ours; the sessions are those with the startd and with its family of daemons."""

    startd: StartdLink
    shadow: Stream
    listener: socket.socket | None
    where: Inheritance
    sessions: tuple[Session, ...]

    def address(self) -> Sinful:
        """Where our command port can be reached: behind the startd's shared port, or by itself."""
        parent = self.where.parent
        if self.where.endpoint and parent is not None:
            return parent.with_sock(self.where.endpoint)
        host, port = "127.0.0.1", 0
        if self.listener is not None and self.listener.family != socket.AF_UNIX:
            host, port = self.listener.getsockname()[:2]
        if host in ("0.0.0.0", "::") and parent is not None:
            host = parent.host
        return Sinful(host, port, (("noUDP", ""),))

    async def close(self) -> None:
        """Close everything: nobody took it over."""
        await self.startd.close()
        self.shadow.close()
        if self.listener is not None:
            self.listener.close()


def take_over(env: Mapping[str, str], fd_of: Callable[[int], int], seconds: float) -> Inherited:
    """Take the sockets and keys of CONDOR_INHERIT and CONDOR_PRIVATE_INHERIT; ``seconds`` for each message.

    Raises CedarError.
    """
    where = parse_inherit(env.get("CONDOR_INHERIT", ""))
    sessions = tuple(parse_private(env.get("CONDOR_PRIVATE_INHERIT", "")))
    if len(where.streams) != 2:
        raise CedarError(f"the startd left {len(where.streams)} connections; two are needed")
    with ExitStack() as undo:
        streams = []
        for inherited in where.streams:
            streams.append(_stream(inherited, fd_of, seconds))
            undo.callback(streams[-1].close)
        listener = _socket(where.listeners[0], fd_of) if where.listeners else None
        undo.pop_all()
    return Inherited(StartdLink(streams[0]), streams[1], listener, where, sessions)


def _socket(inherited: InheritedSocket, fd_of: Callable[[int], int]) -> socket.socket:
    try:
        fd = fd_of(inherited.fd)
        os.set_inheritable(fd, False)
        return socket.socket(fileno=fd)
    except (OSError, KeyError):
        raise CedarError(f"descriptor {inherited.fd} of CONDOR_INHERIT is not a socket here") from None


def _stream(inherited: InheritedSocket, fd_of: Callable[[int], int], seconds: float) -> Stream:
    sock = _socket(inherited, fd_of)
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    cipher = Aes(inherited.cipher) if inherited.cipher else None
    return Stream(sock, wire=Wire(cipher), timeout=seconds)
