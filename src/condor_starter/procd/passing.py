"""Descriptors over a unix socket (unix(7), SCM_RIGHTS), with nothing but the C module beneath ``socket``."""

from __future__ import annotations

import _socket
import sys


def send_fds(sock: _socket.socket, data: bytes, fds: list[int]) -> None:
    """Send one packet with descriptors, which stay ours, too."""
    payload = b"".join([fd.to_bytes(4, sys.byteorder) for fd in fds])
    sock.sendmsg([data], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, payload)] if fds else [])


def receive_fds(sock: _socket.socket, size: int, count: int) -> tuple[bytes, list[int], int]:
    """recvmsg(2) of data and up to ``count`` close-on-exec descriptors: (data, descriptors, flags).

    Not socket.recv_fds: that ignores its flags argument (CPython 3.11 does), so what it received would
    be inherited by every program that is executed later.
    """
    room = _socket.CMSG_LEN(count * 4)
    data, ancillary, flags, _ = sock.recvmsg(size, room, _socket.MSG_CMSG_CLOEXEC)
    fds: list[int] = []
    for level, kind, payload in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            for at in range(0, len(payload) // 4 * 4, 4):
                fds.append(int.from_bytes(payload[at : at + 4], sys.byteorder))
    return data, fds, flags
