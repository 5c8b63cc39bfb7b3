"""Building a box: what the new process does between its clone and the job's exec.

A *spare* is an init that has been cloned ahead of time: it has its namespaces, has let go of everything that
is procd's, and waits. procd writes its pid into the ledger and sends it an :class:`Order`; then it takes the
plan's steps (see isolation/boxplan.py) one by one, reports the step that failed or that all is well, and
becomes the box's init. Cloning is the dearest part of a box; this way it happens while the job before runs.
"""

from __future__ import annotations

import errno
import fcntl
import json
import marshal
import os
import socket
import struct
from typing import Any, NamedTuple, NoReturn

from condor_starter.isolation.boxplan import Bind, BoxPlan, Identity, Limits, Rlimit, Stdio
from condor_starter.procd import faultpoint, fds, ids, init, mounts, protocol, syscalls

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1  # netdevice(7)
_SIGKILL = 9


class StepError(Exception):
    """A step of the child that failed; ``args`` are its name, errno and text."""


class Order(NamedTuple):
    """What a spare init needs to become one box: the plan, and what procd adds to it."""

    plan: BoxPlan
    join_files: list[str]  # cgroup.procs files of the box's cgroups
    from_uid: int  # owner of the fresh scratch directory
    die_with_us: bool  # a private procd: its boxes do not outlive it
    has_root: bool  # a descriptor of the named chroot's tree comes with it


class Spare(NamedTuple):
    """An init that has its namespaces and waits for an order; it ends when ``report`` closes."""

    pid: int
    pidfd: int
    report: socket.socket
    namespaces: tuple[str, ...]

    def send(self, order: Order, fds: list[int]) -> None:
        """Let it become that box. ``fds``: status file, scratch directory, [root,] the passed ones."""
        body = os.memfd_create("order", os.MFD_CLOEXEC)
        try:
            os.write(body, marshal.dumps(_plain(order)))
            socket.send_fds(self.report, [b"o"], [body, *fds])
        finally:
            os.close(body)

    def discard(self) -> None:
        """It is not needed: it ends by itself; its pidfd tells when."""
        self.report.close()


def spare(namespaces: tuple[str, ...]) -> Spare:
    """Clone an init with ``namespaces``. Raises OSError (the clone step)."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    flags = 0
    for name in namespaces:
        if name != "cgroup":  # unshared by the child once it is in its cgroup, so that it is rooted there
            flags |= syscalls.NAMESPACE_FLAGS[name]
    try:
        pid, pidfd = syscalls.clone(flags)
    except OSError:
        ours.close()
        theirs.close()
        raise
    if pid == 0:
        _child(namespaces, theirs)
    theirs.close()
    ours.setblocking(False)
    return Spare(pid, pidfd, ours, namespaces)


def _child(namespaces: tuple[str, ...], report: socket.socket) -> NoReturn:
    """The new process, from its first instruction to its last: nothing may ever return from here."""
    try:
        _detach(namespaces, report)
        order, fds = _await_order(report)
        _become_box(order, fds, report)
    finally:
        os._exit(0)


def _detach(namespaces: tuple[str, ...], report: socket.socket) -> None:
    """All that can be done before we know for whom: rid of what is procd's, a view and signals of our own."""
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, _SIGKILL)
    syscalls.close_all_but({report.fileno(), faultpoint.marker_fd()} - {-1})
    while (fd := os.open("/dev/null", os.O_RDWR)) < 3:
        pass  # descriptors 0, 1 and 2 are never anything else's
    os.close(fd)
    syscalls.set_name("starter_init")
    init.block_signals()
    os.umask(0o022)  # procd's own is for what it keeps to itself
    os.setsid()
    syscalls.new_session_keyring()
    if "pid" not in namespaces:
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    if "mnt" in namespaces:
        mounts.leave_host()
    if "net" in namespaces:
        _loopback_up()


def _await_order(report: socket.socket) -> tuple[Order, list[int]]:
    """The barrier: procd has written our pid into the ledger before it sends this."""
    data, fds, _ = protocol.receive_fds(report, 16, 32)
    if not data:
        os._exit(0)  # not needed, or procd is gone
    with open(fds.pop(0), "rb") as f:
        f.seek(0)
        plan, *rest = marshal.loads(f.read())
    return Order(_plan(plan), *rest), fds


def _become_box(order: Order, fds: list[int], report: socket.socket) -> None:
    status_fd = fds[0]
    box = _Builder(order, fds)
    try:
        for step, action in (
            ("cgroup", box.join),
            ("own", box.own),
            ("mounts", box.mounts),
            ("identity", box.identity),
            ("cwd", box.cwd),
            ("stdio", box.stdio),
            ("exec", box.execute),
        ):
            if step != "cgroup":  # that point is procd's, before it makes the cgroup
                faultpoint.point(step)
            _attempt(step, action)
    except StepError as e:
        step, number, text = e.args
        _tell(report, {"step": step, "errno": number, "text": text})
        return
    _tell(report, {"notes": box.notes} if box.notes else None)
    report.close()
    init.tend(box.main, status_fd, "pid" in order.plan.namespaces)


def _plain(value: Any) -> Any:
    """Named tuples as plain ones, which marshal can write; lists stay lists."""
    return tuple(map(_plain, value)) if isinstance(value, tuple) else value


def _plan(plain: tuple[Any, ...]) -> BoxPlan:
    plan = BoxPlan._make(plain)
    return plan._replace(
        identity=Identity._make(plan.identity),
        stdin=Stdio._make(plan.stdin),
        stdout=Stdio._make(plan.stdout),
        stderr=Stdio._make(plan.stderr),
        limits=Limits._make(plan.limits),
        binds=tuple(Bind._make(b) for b in plan.binds),
        rlimits=tuple(Rlimit._make(r) for r in plan.rlimits),
    )


def _attempt(step: str, action: Any) -> None:
    try:
        action()
    except OSError as e:
        raise StepError(step, e.errno or errno.EIO, str(e)) from None
    except _Failed as e:
        raise StepError(*e.args) from None


def _tell(report: socket.socket, message: dict[str, Any] | None) -> None:
    """Report to procd; "all is well" without the JSON encoder, whose pages we would have to copy."""
    try:
        report.send(json.dumps(message).encode()[:60000] if message else b'{"notes":[]}')
    except OSError:
        pass  # procd died; the next one sees us run, or our status file


class _Failed(Exception):
    """A failure of one particular thing within a step: (its name, errno, text)."""


class _Builder:
    """The child's steps, in the order in which they are taken."""

    def __init__(self, order: Order, fds: list[int]) -> None:
        self._order = order
        self._plan = order.plan
        self._status, self._scratch, *rest = fds
        self._root = rest.pop(0) if order.has_root else -1
        self._passed = rest
        self._streams: tuple[int, int, int] = (-1, -1, -1)
        self._covered: dict[str, int] = {}  # private directory -> the host's, which it covers
        self.notes: list[str] = []
        self.main = -1

    def join(self) -> None:
        """Into the box's cgroups, all of them, before anything of the job exists."""
        if not self._order.die_with_us:
            syscalls.prctl(syscalls.PR_SET_PDEATHSIG, 0)  # we are in the ledger: the next procd finds us
        for path in self._order.join_files:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, b"0")
            finally:
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
            view.build()
            self.notes += view.notes
        if self._plan.hostname:
            socket.sethostname(self._plan.hostname)

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
            farewell = _SIGKILL if "pid" in self._plan.namespaces else init.FAREWELL
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
        syscalls.close_on_exec_from(3)  # whatever we forgot: the job gets three descriptors and no other
        self.main = init.spawn(plan.argv, plan.env, self._streams)
        keep = {self._status, faultpoint.marker_fd()} - {-1}
        for fd in {*self._streams, *self._passed, *self._covered.values(), self._scratch} - keep:
            os.close(fd)


def _loopback_up() -> None:
    """A new network namespace has its lo down; jobs expect 127.0.0.1."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        request = struct.pack("16sh22x", b"lo", 0)
        flags = struct.unpack("16sh22x", fcntl.ioctl(s, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(s, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | _IFF_UP))
