"""procd's side of the nursery: *spares*, inits that are cloned ahead of time and wait to become one box.

Cloning is the dearest part of a box; this way it happens while the job before runs. procd writes a spare's
pid into the ledger and sends it an :class:`Order`; see build.py for what it does with that.
"""

from __future__ import annotations

import _socket
import errno
import marshal
import os
from typing import Any, NamedTuple

from condor_starter.isolation.boxplan import BoxPlan
from condor_starter.procd import build, nursery, passing
from condor_starter.procd.mountplan import Mount

PATIENCE = 10.0
"""Seconds that a clone may take on a machine that swaps; then the nursery counts as lost."""


class Order(NamedTuple):
    """What a spare init needs to become one box: the plan, and what procd adds to it."""

    plan: BoxPlan
    mounts: tuple[Mount, ...]  # mountplan's, of this plan
    from_uid: int  # owner of the fresh scratch directory
    die_with_us: bool  # a private procd: its boxes do not outlive it
    has_root: bool  # a descriptor of the named chroot's tree comes with it
    pause_at: str  # fault injection: a descriptor of the marker comes with it


class Spare(NamedTuple):
    """An init that has its namespaces and waits for an order; it ends when ``report`` closes."""

    pid: int
    pidfd: int
    report: _socket.socket
    namespaces: tuple[str, ...]

    def send(self, order: Order, fds: list[int]) -> None:
        """Let it become that box. ``fds``: see :func:`build.wait_and_become`."""
        data = marshal.dumps(_plain(order))
        if len(data) <= build.INLINE:
            passing.send_fds(self.report, data, fds)
            return
        body = os.memfd_create("order", os.MFD_CLOEXEC)
        try:
            os.write(body, data)
            passing.send_fds(self.report, build.ELSEWHERE, [*fds, body])
        finally:
            os.close(body)

    def go(self, join_files: list[str]) -> None:
        """The cgroup is there: join it by these cgroup.procs files, and go on to the job. Raises OSError.

        They go as descriptors: the init may be in a named chroot by now.
        """
        files: list[int] = []
        try:
            for path in join_files:
                files.append(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
            passing.send_fds(self.report, b"go", files)
        except ConnectionError:
            pass  # it has failed already; its report says at what
        finally:
            for fd in files:
                os.close(fd)

    def alive(self) -> bool:
        """Whether it has not been killed meanwhile."""
        try:
            return os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        except ChildProcessError:
            return False

    def discard(self) -> None:
        """It is not needed: it ends by itself; see it off."""
        self.report.close()
        try:
            os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
        except ChildProcessError:
            pass
        os.close(self.pidfd)


def _plain(value: Any) -> Any:
    """Named tuples as dicts, which marshal can write."""
    if hasattr(value, "_asdict"):
        return {k: _plain(v) for k, v in value._asdict().items()}
    return tuple(map(_plain, value)) if isinstance(value, tuple) else value


class Spares:
    """The spares of one procd. An OSError from a method is a clone that failed."""

    def __init__(self, born: tuple[_socket.socket, int] | None) -> None:
        """``born``: what :func:`nursery.split_off` gave; None splits it off now. Raises OSError."""
        self._asked: tuple[str, ...] | None = None
        self._start(born or nursery.split_off())

    def _start(self, born: tuple[_socket.socket, int]) -> None:
        self._sock, self._nursery = born
        self._sock.settimeout(PATIENCE)

    def prepare(self, namespaces: tuple[str, ...]) -> None:
        """The next box will probably want these: have an init cloned while this one is built and runs."""
        try:
            if self._asked is None:
                self._ask(namespaces)
        except OSError:
            pass  # this box has its init; the next one's take says what is wrong

    def expect(self, procs: str) -> None:
        """A box will be built soon. ``procs``: a cgroup.procs that the nursery may write to, or "".

        The kernel moves a process into a cgroup under a lock that costs the first writer after a pause an
        RCU grace period (cgroup_threadgroup_rwsem): some 10 ms, for which a lone box's init would wait. A
        process that is moved now pays them beforehand, while the job's files travel.
        """
        data = os.fsencode(procs)
        if not 0 < len(data) <= nursery.MAX_REQUEST:
            return
        try:
            os.write(self._sock.fileno(), data)  # not send(): that would wait for a nursery that is busy
        except OSError:
            pass  # it is only a hint; a dead nursery is noticed by the next take

    def take(self, namespaces: tuple[str, ...]) -> Spare:
        """An init with these namespaces, for one box. Raises OSError (the clone step)."""
        if self._asked not in (None, namespaces):
            self._receive().discard()
        for _ in range(3):
            if self._asked is None:
                self._ask(namespaces)
            try:
                spare = self._receive()
            except ConnectionError:
                continue  # the nursery was killed; the next request starts another
            if spare.alive():
                return spare
            spare.discard()
        raise OSError(errno.ESRCH, "an init is killed as soon as it is made")

    def pids(self) -> set[int]:
        """The nursery, and the spare that it may have made ahead (which is given up)."""
        self._give_up()
        return {self._nursery}

    def close(self) -> None:
        """End the nursery and what it has made ahead."""
        self._give_up()
        self._bury()

    def _give_up(self) -> None:
        try:
            if self._asked is not None:
                self._receive().discard()
        except OSError:
            pass  # it is gone already, and what it made ends by itself

    def _ask(self, namespaces: tuple[str, ...]) -> None:
        request = ",".join(namespaces).encode() or b"-"
        try:
            self._sock.send(request)
        except ConnectionError:  # it was killed: its successor is larger, but does the same
            self._bury()
            self._start(nursery.split_off())
            self._sock.send(request)
        self._asked = namespaces

    def _receive(self) -> Spare:
        """What was asked for. Raises OSError: ConnectionError when the nursery is dead."""
        assert self._asked is not None
        namespaces, self._asked = self._asked, None
        data, fds, _ = passing.receive_fds(self._sock, 64, 2)
        if len(fds) == 2:
            return Spare(int(data), fds[0], _socket.socket(*nursery.SEQPACKET, fileno=fds[1]), namespaces)
        for fd in fds:
            os.close(fd)
        if not data:
            raise ConnectionResetError(errno.ECONNRESET, "the nursery has ended")
        code = int(data[1:])
        raise OSError(code, f"clone of {','.join(namespaces) or 'no'} namespaces: {os.strerror(code)}")

    def _bury(self) -> None:
        self._sock.close()
        os.waitpid(self._nursery, 0)
