"""The init of one box as procd holds it: its pid and pidfd, and the socket on which it reports its start.

It is heard of three times: its report says whether the job runs; the end of that socket, that the kernel has
closed its descriptors, so that it runs no more; and its pidfd, that it has given back all that it held. One
that an earlier procd made has no socket, and is heard of once.
"""

from __future__ import annotations

import _socket
import errno
import os
import signal
from collections.abc import Callable
from typing import Any

from condor_starter.procd import build
from condor_starter.procd.descent import start_time
from condor_starter.procd.loop import Loop
from condor_starter.procd.spares import Spare

Report = Callable[[dict[str, Any]], None]
"""Takes what :func:`build.read_report` gives."""

_LOST = {"step": "clone", "errno": errno.ESRCH, "text": "the box's init died while it was being built"}


class BoxInit:
    """``on_ends`` is called when it runs no more, ``on_gone`` when it is reaped: on_gone always, and last."""

    def __init__(self, loop: Loop, on_ends: Callable[[], None], on_gone: Callable[[], None]) -> None:
        self._loop = loop
        self._on_ends = on_ends
        self._on_gone = on_gone
        self._pid = 0
        self._pidfd = -1
        self._report: _socket.socket | None = None
        self._on_report: Report | None = None

    @property
    def pid(self) -> int:
        """Its pid while it is there; 0 when there is none."""
        return self._pid if self._pidfd >= 0 else 0

    def take(self, spare: Spare, on_report: Report) -> None:
        """``spare`` is to become it; ``on_report`` is called once: it runs the job, or failed, or is lost."""
        self._report = spare.report
        self._report.setblocking(False)
        self._on_report = on_report
        self._loop.watch(self._report.fileno(), self._hear)
        self._watch(spare.pid, spare.pidfd)

    def rejoin(self, pid: int, started: int) -> bool:
        """Take over ``pid`` of an earlier procd; False if it is gone: the number may be another's by now."""
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return False
        if start_time(pid) != started:
            os.close(pidfd)
            return False
        self._watch(pid, pidfd)
        return True

    def dismiss(self) -> None:
        """It is not to go on, and its report does not matter: one that waits for us ends by itself."""
        self._on_report = None
        self._hang_up()

    def signal(self, number: int) -> None:
        """Send ``number`` to it, if it is there."""
        if self._pidfd >= 0:
            signal.pidfd_send_signal(self._pidfd, number)

    def _watch(self, pid: int, pidfd: int) -> None:
        self._pid, self._pidfd = pid, pidfd
        self._loop.watch(pidfd, self._reap)

    def _hear(self, dead: bool = False) -> None:
        """``dead``: nothing more will come, even if a child that it was just starting holds its end open."""
        assert self._report is not None
        try:
            data = self._report.recv(65536)
        except BlockingIOError:
            if not dead:
                return
            data = b""
        except OSError:
            data = b""
        if not data:
            self._hang_up()
        on_report, self._on_report = self._on_report, None
        if on_report:
            on_report(build.read_report(data) if data else _LOST)
        elif not data:
            self._on_ends()

    def _hang_up(self) -> None:
        if self._report is not None:
            self._loop.unwatch(self._report.fileno())
            self._report.close()
            self._report = None

    def _reap(self) -> None:
        self._loop.unwatch(self._pidfd)
        try:
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        except ChildProcessError:
            pass  # an earlier procd's child, not ours
        if self._on_report is not None:
            self._hear(dead=True)
        self._hang_up()
        os.close(self._pidfd)
        self._pidfd = -1
        self._on_gone()
