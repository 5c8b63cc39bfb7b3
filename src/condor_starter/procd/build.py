"""Building a box: what procd does before and the new process does after the one clone.

:func:`launch` is the parent's half, :func:`_child` the child's: a flat list of named steps (the plan's steps,
see isolation/boxplan.py). The child waits until procd has written its pid into the ledger, reports each
failure with its step, and becomes the box's init.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import struct
from typing import Any, NamedTuple, NoReturn

from condor_starter.isolation.boxplan import BoxPlan, Stdio
from condor_starter.procd import faultpoint, fds, ids, init, mounts, syscalls

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1  # netdevice(7)
_SIGKILL = 9


class StepError(Exception):
    """A step of the child that failed; ``args`` are its name, errno and text."""


class Materials(NamedTuple):
    """What a child needs from procd: descriptors that it may keep, and where it belongs."""

    scratch_fd: int
    root_fd: int  # O_PATH of the named chroot's tree, -1 for the host's root
    status_fd: int
    passed: list[int]  # descriptors that came with the request
    join_files: list[str]  # v1 cgroup.procs files
    clone_fd: int  # directory of the v2 cgroup, -1
    from_uid: int  # owner of the fresh scratch directory
    die_with_us: bool  # a private procd: its boxes do not outlive it


class Launched(NamedTuple):
    """A child that stands at the barrier: it goes on when ``report`` gets a byte, and reports through it."""

    pid: int
    pidfd: int
    report: socket.socket


def launch(plan: BoxPlan, materials: Materials) -> Launched:
    """Clone the box's init. Raises OSError (the clone step)."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    flags = 0
    for name in plan.namespaces:
        if name != "cgroup":  # unshared by the child once it is in its cgroup, so that it is rooted there
            flags |= syscalls.NAMESPACE_FLAGS[name]
    try:
        pid, pidfd = syscalls.clone(flags, materials.clone_fd)
    except OSError:
        ours.close()
        theirs.close()
        raise
    if pid == 0:
        _child(plan, materials, theirs)
    theirs.close()
    ours.setblocking(False)
    return Launched(pid, pidfd, ours)


def _child(plan: BoxPlan, materials: Materials, report: socket.socket) -> NoReturn:
    """The new process, from its first instruction to its last: nothing may ever return from here."""
    try:
        _prepare(plan, materials, report)
        box = _Builder(plan, materials)
        for step, action in (
            ("own", box.own),
            ("mounts", box.mounts),
            ("identity", box.identity),
            ("cwd", box.cwd),
            ("stdio", box.stdio),
            ("exec", box.execute),
        ):
            faultpoint.point(step)
            _attempt(step, action)
        _tell(report, {"notes": box.notes})
        report.close()
        init.tend(box.main, materials.status_fd, "pid" in plan.namespaces)
    except StepError as e:
        step, number, text = e.args
        _tell(report, {"step": step, "errno": number, "text": text})
    finally:
        os._exit(0)


def _prepare(plan: BoxPlan, materials: Materials, report: socket.socket) -> None:
    """Into the cgroups, past the barrier, and rid of everything that is procd's."""
    _attempt("cgroup", lambda: _join(materials.join_files))
    if not report.recv(1):
        os._exit(0)  # procd is gone and has not recorded us
    if materials.die_with_us:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, _SIGKILL)
    kept = {report.fileno(), materials.scratch_fd, materials.root_fd, materials.status_fd}
    kept |= {faultpoint.marker_fd(), *materials.passed}
    syscalls.close_all_but(kept - {-1})
    init.block_signals()
    os.setsid()
    if "cgroup" in plan.namespaces:
        _attempt("cgroup", lambda: syscalls.unshare(syscalls.CLONE_NEWCGROUP))
    if "pid" not in plan.namespaces:
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)


def _join(files: list[str]) -> None:
    for path in files:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"0")
        finally:
            os.close(fd)


def _attempt(step: str, action: Any) -> None:
    try:
        action()
    except OSError as e:
        raise StepError(getattr(action, "blamed", step), e.errno or errno.EIO, str(e)) from None
    except _Failed as e:
        raise StepError(*e.args) from None


def _tell(report: socket.socket, message: dict[str, Any]) -> None:
    try:
        report.send(json.dumps(message).encode()[:60000])
    except OSError:
        pass  # procd died; the next one sees us run, or our status file


class _Failed(Exception):
    """A failure of one particular thing within a step: (its name, errno, text)."""


class _Builder:
    """The child's steps, in the order in which they are taken."""

    def __init__(self, plan: BoxPlan, materials: Materials) -> None:
        self._plan = plan
        self._materials = materials
        self._streams: tuple[int, int, int] = (-1, -1, -1)
        self.notes: list[str] = []
        self.main = -1

    def own(self) -> None:
        """The scratch directory becomes the job user's: from now on nobody else touches it by path."""
        if os.geteuid() == 0:
            who = self._plan.identity
            fds.own_tree(self._materials.scratch_fd, who.uid, who.gid, self._materials.from_uid)

    def mounts(self) -> None:
        """The job's view of the file system, its hostname and its loopback device."""
        if "mnt" in self._plan.namespaces:
            view = mounts.View(self._plan, self._materials.scratch_fd, self._materials.root_fd)
            view.build()
            self.notes += view.notes
        if self._plan.hostname:
            socket.sethostname(self._plan.hostname)
        if "net" in self._plan.namespaces:
            _loopback_up()

    def identity(self) -> None:
        """Limits, then the job user's ids for good. PDEATHSIG is lost with them, so it is set again."""
        self.notes += ids.limit(self._plan)
        syscalls.new_session_keyring()
        ids.become(self._plan.identity)
        if self._materials.die_with_us:
            syscalls.prctl(syscalls.PR_SET_PDEATHSIG, _SIGKILL)

    def cwd(self) -> None:
        os.chdir(self._plan.cwd)

    def stdio(self) -> None:
        """The three streams, opened as the job's user in the job's view."""
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
            return self._materials.passed[stream.fd]
        path = stream.path or "/dev/null"
        if flags & os.O_WRONLY:
            flags |= os.O_APPEND if stream.append else os.O_TRUNC
        try:
            # O_NONBLOCK: a FIFO without a peer must not hang us; it is taken off again for the job
            fd = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, 0o666)
            os.set_blocking(fd, True)
            return fd
        except OSError as e:
            raise _Failed(name, e.errno, f"Failed to open '{path}': {e.strerror}") from None

    def execute(self) -> None:
        """Start the job; from here on we are its init."""
        plan = self._plan
        self.main = init.spawn(plan.argv, plan.env, self._streams)
        keep = {self._materials.status_fd, faultpoint.marker_fd()} - {-1}
        for fd in {*self._streams, *self._materials.passed, self._materials.scratch_fd} - keep:
            os.close(fd)


def _loopback_up() -> None:
    """A new network namespace has its lo down; jobs expect 127.0.0.1."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        request = struct.pack("16sh22x", b"lo", 0)
        flags = struct.unpack("16sh22x", fcntl.ioctl(s, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(s, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | _IFF_UP))
