"""Listening unix sockets beneath the run directory, replaced atomically from one starterd to the next."""

from __future__ import annotations

import os
import socket


def listen(path: str, mode: int, owner: tuple[int, int]) -> socket.socket:
    """A stream socket that listens at ``path`` with ``mode``, for ``owner`` (uid, gid) if we are root.

    Bound under another name first and renamed, so that there is no moment without a socket and none in which
    it has the wrong mode. Raises OSError.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    temporary = f"{path}.{os.getpid()}"
    try:
        old = os.umask(0o177)
        try:
            sock.bind(temporary)
        finally:
            os.umask(old)
        if os.geteuid() == 0:
            os.chown(temporary, *owner, follow_symlinks=False)
        os.chmod(temporary, mode)
        sock.listen(128)
        os.rename(temporary, path)
    except BaseException:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def serves(path: str) -> bool:
    """True if somebody listens at ``path``."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        return probe.connect_ex(path) == 0
