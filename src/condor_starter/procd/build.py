"""Building a box: what the new process does between its clone and the job's exec.

A *spare* is an init that the nursery has cloned ahead of time: it has its namespaces and waits. procd sends
it an order (spares.py); then it takes the plan's steps (see isolation/boxplan.py) one by one, reports the
step that failed or that all is well, and becomes the box's init.

This and all that it imports is held by the nursery, so it imports next to nothing: named tuples come as plain
namespaces, and a report is words that each end in NUL: ``step errno text`` of a failure, or an empty one and
notes.
"""

from __future__ import annotations

import _socket
import errno
import fcntl
import marshal
import os
import sys

from condor_starter.procd import faultpoint, fds, ids, init, mounts, passing, syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from condor_starter.isolation.boxplan import Stdio
    from condor_starter.procd.spares import Order

INLINE = 16384
ELSEWHERE = b"memfd"
"""Instead of an order larger than INLINE bytes: it is in a memfd, the last descriptor."""

_MOST_FDS = 32
_Namespace = type(sys.implementation)  # types.SimpleNamespace, without the module
_SIOCSIFFLAGS = 0x8914  # netdevice(7)
_LOOPBACK_UP = b"lo".ljust(16, b"\0") + (1).to_bytes(2, sys.byteorder) + bytes(22)  # ifr_flags = IFF_UP


class StepError(Exception):
    """A step of the child that failed; ``args`` are its name, errno and text."""


def wait_and_become(namespaces: list[str], report: _socket.socket) -> NoReturn:
    """The new process, from its first instruction to its last: nothing may ever return from here.

    First the order comes, for what needs no cgroup; then, when that has its limits, the files to join it.
    With the order come descriptors: the status file, the scratch directory, the named chroot's tree if the
    order has one, a fault point's marker if the order has one, then those that plan's streams refer to.
    """
    try:
        _detach(namespaces)
        if "mnt" in namespaces:
            _rehearse(report.fileno())
        order, fds = _await_order(report)
        _become_box(order, fds, report)
    finally:
        os._exit(0)


def _detach(namespaces: list[str]) -> None:
    """All that can be done before we know for whom."""
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, init.SIGKILL)
    syscalls.new_session_keyring()
    if "pid" not in namespaces:
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    if "mnt" in namespaces:
        mounts.leave_host()
    if "net" in namespaces:
        _loopback_up()


_STREAM = {"path": None, "fd": None, "append": False}
_PLAN = {
    "namespaces": ("mnt",),
    "execute": "",
    "scratch": "",
    "chroot": "",
    "hostname": "",
    "private_dirs": (),
    "stdin": _STREAM,
    "stdout": _STREAM,
    "stderr": _STREAM,
}
_ORDER = {
    "plan": _PLAN,
    "mounts": (),
    "die_with_us": True,
    "has_root": False,
    "pause_at": "",
}
_REHEARSAL = marshal.dumps(_ORDER)
"""An order for a box that has "/" for a scratch directory, mounts nothing in it and joins nothing."""


def _rehearse(report: int) -> None:
    """Do what can be done without harm for such an order.

    What is touched for the first time after the clone is copied then. This way that is now, while nobody
    waits, and not when an order has come.
    """
    box = _Builder(_named(marshal.loads(_REHEARSAL)), [-1, fds.open_directory("/")])
    for action in (lambda: box.join([os.open("/dev/null", os.O_WRONLY)]), box.mounts, box.stdio):
        _attempt("rehearsal", action)
    syscalls.close_all_but({0, 1, 2, report})


def _await_order(report: _socket.socket) -> tuple[Order, list[int]]:
    """The barrier: procd has written our pid into the ledger before it sends this."""
    data, fds, _ = passing.receive_fds(report, INLINE, _MOST_FDS)
    if not data:
        os._exit(0)  # not needed, or procd is gone
    if data == ELSEWHERE:
        body = fds.pop()
        data = os.pread(body, os.fstat(body).st_size, 0)
        os.close(body)
    return _named(marshal.loads(data)), fds


def _await_cgroup(report: _socket.socket) -> list[int]:
    """The second barrier: nothing of the job exists before its limits do. The cgroup.procs files to join."""
    data, files, _ = passing.receive_fds(report, INLINE, _MOST_FDS)
    if not data:
        os._exit(0)  # there is no cgroup, or no procd any more
    return files


def _named(value: Any) -> Any:
    """Dicts as namespaces, beneath tuples too: they read like the named tuples that they were."""
    if type(value) is dict:
        return _Namespace(**{k: _named(v) for k, v in value.items()})
    if type(value) is tuple and value and type(value[0]) is dict:
        return tuple([_named(v) for v in value])
    return value


def _become_box(order: Order, fds: list[int], report: _socket.socket) -> None:
    status_fd = fds[0]
    box = _Builder(order, fds)
    try:
        for step, action in (
            ("own", box.own),
            ("mounts", box.mounts),
            ("cgroup", lambda: box.join(_await_cgroup(report))),
            ("identity", box.identity),
            ("cwd", box.cwd),
            ("stdio", box.stdio),
            ("exec", box.execute),
        ):
            if step != "cgroup":  # that point is procd's, who makes it while we take the steps above
                faultpoint.point(step)
            _attempt(step, action)
    except StepError as e:
        step, number, text = e.args
        _tell(report, [step, str(number), text])
        return
    _tell(report, ["", *box.notes])
    # The report stays open: that it closes is the first that procd hears of our end.
    init.tend(box.main, status_fd, "pid" in order.plan.namespaces)


def _attempt(step: str, action: Any) -> None:
    try:
        action()
    except OSError as e:
        raise StepError(step, e.errno or errno.EIO, str(e)) from None
    except _Failed as e:
        raise StepError(*e.args) from None


def _tell(report: _socket.socket, words: list[str]) -> None:
    try:
        report.send("\0".join([*words, ""]).encode(errors="replace")[:60000])
    except OSError:
        pass  # procd died; the next one sees us run, or our status file


def read_report(data: bytes) -> dict[str, Any]:
    """What a spare reports: ``{"notes": [...]}`` of a box that runs, or ``{"step", "errno", "text"}``."""
    first, *rest = data.decode(errors="replace").split("\0")[:-1]
    if not first:
        return {"notes": rest}
    return {"step": first, "errno": int(rest[0]), "text": rest[1]}


class _Failed(Exception):
    """A failure of one particular thing within a step: (its name, errno, text)."""


class _Builder:
    """The child's steps, in the order in which they are taken."""

    def __init__(self, order: Order, fds: list[int]) -> None:
        self._order = order
        self._plan = order.plan
        self._status, self._scratch, *rest = fds
        self._root = rest.pop(0) if order.has_root else -1
        if order.pause_at:
            faultpoint.take(order.pause_at, rest.pop(0))
        self._passed = rest
        self._streams: tuple[int, int, int] = (-1, -1, -1)
        self._covered: dict[str, int] = {}  # private directory -> the host's, which it covers
        self.notes: list[str] = []
        self.main = -1

    def join(self, files: list[int]) -> None:
        """Into the box's cgroups by their cgroup.procs, all of them, before anything of the job exists."""
        if not self._order.die_with_us:
            syscalls.prctl(syscalls.PR_SET_PDEATHSIG, 0)  # we are in the ledger: the next procd finds us
        for fd in files:
            os.write(fd, b"0")
            os.close(fd)
        if "cgroup" in self._plan.namespaces:
            syscalls.unshare(syscalls.CLONE_NEWCGROUP)

    def own(self) -> None:
        """The scratch directory becomes the job user's: from now on nobody else touches it by path."""
        if os.geteuid() == 0:
            who = self._plan.identity
            fds.own_tree(self._scratch, who.uid, who.gid, self._order.from_uid)

    def mounts(self) -> None:
        """The job's view of the file system, and its hostname."""
        if "mnt" in self._plan.namespaces:
            self._keep_covered()
            view = mounts.View(self._plan, self._scratch, self._root)
            view.build(self._order.mounts)
            self.notes += view.notes
        if self._plan.hostname:
            _socket.sethostname(self._plan.hostname)

    def _keep_covered(self) -> None:
        """Hold the host's directories that streams lie in and a private one is about to cover.

        A stream's path is the submitter's: his /tmp/out is the host's, whatever the job sees there. It is
        opened as every stream is, with the job user's ids, once there are no others.
        """
        plan = self._plan
        if plan.chroot:
            return
        paths = [s.path for s in (plan.stdin, plan.stdout, plan.stderr) if s.path]
        for directory in plan.private_dirs:
            if any(p.startswith(directory + "/") for p in paths) and os.path.isdir(directory):
                self._covered[directory] = fds.open_directory(directory)

    def identity(self) -> None:
        """Limits, then the job user's ids for good. PDEATHSIG is lost with them, so it is set again."""
        self.notes += ids.limit(self._plan)
        ids.become(self._plan.identity)
        if self._order.die_with_us:
            # the kernel ends a pid namespace with its init; a tree's init has to do that itself
            farewell = init.SIGKILL if "pid" in self._plan.namespaces else init.FAREWELL
            syscalls.prctl(syscalls.PR_SET_PDEATHSIG, farewell)

    def cwd(self) -> None:
        os.chdir(self._plan.cwd)

    def stdio(self) -> None:
        """The three streams, opened as the job's user in the job's view (see :meth:`_keep_covered`)."""
        plan = self._plan
        write = os.O_WRONLY | os.O_CREAT
        stdin = self._stream("stdin", plan.stdin, os.O_RDONLY)
        stdout = self._stream("stdout", plan.stdout, write)
        if plan.stderr == plan.stdout and plan.stdout.path is not None:
            stderr = os.dup(stdout)  # one file, one offset: neither overwrites the other
        else:
            stderr = self._stream("stderr", plan.stderr, write)
        self._streams = (stdin, stdout, stderr)

    def _stream(self, name: str, stream: Stdio, flags: int) -> int:
        if stream.fd is not None:
            return self._passed[stream.fd]
        path = stream.path or "/dev/null"
        covering = next((d for d in self._covered if path.startswith(d + "/")), None)
        start = self._covered[covering] if covering else None
        if flags & os.O_WRONLY:
            flags |= os.O_APPEND if stream.append else os.O_TRUNC
        try:
            # O_NONBLOCK: a FIFO without a peer must not hang us; it is taken off again for the job
            tail = path.removeprefix(f"{covering}/").lstrip("/") if covering else path
            fd = os.open(tail, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, 0o666, dir_fd=start)
            os.set_blocking(fd, True)
            return fd
        except OSError as e:
            raise _Failed(name, e.errno, f"Failed to open '{path}': {e.strerror}") from None

    def execute(self) -> None:
        """Start the job; from here on we are its init."""
        plan = self._plan
        os.write(self._status, init.BEGUN)
        syscalls.close_on_exec_from(3)  # whatever we forgot: the job gets three descriptors and no other
        self.main = init.spawn(plan.argv, plan.env, self._streams)
        keep = {self._status, faultpoint.marker_fd()} - {-1}
        for fd in {*self._streams, *self._passed, *self._covered.values(), self._scratch} - keep:
            os.close(fd)


def _loopback_up() -> None:
    """A new network namespace has its lo down; jobs expect 127.0.0.1. Its other flags cannot be changed."""
    with_lo = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    fcntl.ioctl(with_lo.fileno(), _SIOCSIFFLAGS, _LOOPBACK_UP)
    with_lo.close()
