"""Going into the background: the command returns when the daemon is ready, or with its failure."""

from __future__ import annotations

import os

_READY = b"r"


class Ready:
    """The daemon's end of the pipe to the command that started it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def tell(self) -> None:
        """The command may return: we serve. From now on the terminal is not ours."""
        os.write(self._fd, _READY)
        os.close(self._fd)
        null = os.open("/dev/null", os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.close(null)


def detach() -> Ready:
    """Go on as a daemon in a session of its own; the calling process waits for it and exits 0 or 1.

    Call it before there are threads or an event loop.
    """
    reader, writer = os.pipe()
    if os.fork():
        os.close(writer)
        os._exit(0 if os.read(reader, 1) == _READY else 1)
    os.close(reader)
    os.setsid()
    if os.fork():  # not a session leader: a terminal that it opens does not become its own
        os._exit(0)
    os.chdir("/")
    return Ready(writer)
