"""The mounts of one box: made inside its mount namespace, by root, before the job's user exists there.

A list of operations, planned first (mountplan.py, pure) and then executed in order. Sources and
targets are opened beneath a root without following symlinks and mounted through their descriptors, so that a
path which somebody swaps meanwhile is not what gets mounted (CVE-2021-30465, CVE-2025-31133 are such swaps).
"""

from __future__ import annotations

import errno
import os
import stat

from condor_starter.procd import fds, syscalls
from condor_starter.procd.syscalls import (
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from condor_starter.isolation.boxplan import BoxPlan
    from condor_starter.procd.mountplan import Mount

_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_DEV_LINKS = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}
# Mount flags of a user's own directory: no device, no set-uid program works there
_USER = MS_NOSUID | MS_NODEV


def leave_host() -> None:
    """Our mounts no longer reach the host; the host's (an automount, a new volume) still reach us."""
    syscalls.mount("none", "/", "", syscalls.MS_REC | syscalls.MS_SLAVE)


class View:
    """The file system as the job will see it, built in our own mount namespace (see leave_host)."""

    def __init__(self, plan: BoxPlan, scratch_fd: int, root_fd: int) -> None:
        """``root_fd``: O_PATH descriptor of the named chroot's tree, or -1 for the host's root."""
        self._plan = plan
        self.notes: list[str] = []
        self._scratch = fds.reopen(f"{plan.execute}/{plan.scratch}", scratch_fd)
        if root_fd >= 0:
            self._root = self._bind_root(os.readlink(fds.proc_path(root_fd)), root_fd)
        else:
            self._root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def _bind_root(self, path: str, root_fd: int) -> int:
        """The tree as a mount of its own (pivot_root wants one), without devices and set-uid programs."""
        tree = fds.reopen(path, root_fd)
        syscalls.mount(fds.proc_path(tree), fds.proc_path(tree), "", MS_BIND | MS_REC)
        os.close(tree)  # it names what lies under the new mount: go through the path
        root = fds.reopen(path, root_fd)
        self._remount(root, _USER)
        return root

    def build(self, ops: tuple[Mount, ...]) -> None:
        """Carry out every operation, then make the tree the root. Raises OSError."""
        for op in ops:
            try:
                self._execute(op)
            except FileNotFoundError as e:
                what = f"{op.kind} {op.source}".rstrip()
                self.notes.append(f"{what} on {op.target}: skipped, {e.strerror}")
        if self._plan.chroot:
            self._pivot()

    def _execute(self, op: Mount) -> None:
        match op.kind:
            case "private":
                self._private(op)
            case "bind":
                self._bind(op)
            case "tmpfs":
                self._fresh("tmpfs", op.target, MS_NOSUID | MS_NODEV, op.data)
            case "proc":
                self._fresh("proc", op.target, MS_NOSUID | MS_NODEV | MS_NOEXEC)
            case "dev":
                self._dev(op.target)
            case "scratch":
                self._show_scratch(op.target)

    def _open(self, target: str, flags: int = os.O_PATH) -> int:
        return fds.open_beneath(self._root, target.strip("/") or ".", flags)

    def _fresh(self, kind: str, target: str, flags: int, data: str = "") -> None:
        fd = self._open(target, os.O_PATH | os.O_DIRECTORY)
        try:
            syscalls.mount(kind, fds.proc_path(fd), kind, flags, data)
        finally:
            os.close(fd)

    def _private(self, op: Mount) -> None:
        """A directory of the scratch in the place of ``op.target`` (MOUNT_UNDER_SCRATCH)."""
        here = f"{self._plan.execute}/{self._plan.scratch}"
        if not self._plan.chroot and (here + "/").startswith(op.target + "/"):
            self.notes.append(f"{op.target}: not private, because the scratch directory lies beneath it")
            return
        target = self._open(op.target, os.O_PATH | os.O_DIRECTORY)
        who = self._plan.identity
        source = fds.ensure_directory(self._scratch, op.source, 0o1777, (who.uid, who.gid))
        try:
            if os.fstat(source).st_mode & 0o7777 != 0o1777:
                os.chmod(fds.proc_path(source), 0o1777)
            syscalls.mount(fds.proc_path(source), fds.proc_path(target), "", MS_BIND)
        finally:
            os.close(source)
            os.close(target)

    def _bind(self, op: Mount) -> None:
        host = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            source = fds.open_beneath(host, op.source.strip("/"))
        finally:
            os.close(host)
        try:
            target = self._target_for(op.target, os.fstat(source).st_mode)
            try:
                syscalls.mount(fds.proc_path(source), fds.proc_path(target), "", MS_BIND)
            finally:
                os.close(target)
        finally:
            os.close(source)
        mounted = self._open(op.target)
        self._remount(mounted, _USER | (MS_RDONLY if op.read_only else 0))
        os.close(mounted)

    def _target_for(self, target: str, mode: int) -> int:
        fd = self._open(target)
        if stat.S_ISDIR(mode) != stat.S_ISDIR(os.fstat(fd).st_mode):
            os.close(fd)
            raise NotADirectoryError(errno.ENOTDIR, f"{target}: one is a directory, the other a file")
        return fd

    def _remount(self, fd: int, flags: int) -> None:
        syscalls.mount("none", fds.proc_path(fd), "", MS_REMOUNT | MS_BIND | flags)

    def _dev(self, target: str) -> None:
        """A minimal /dev for a tree that has none of its own: binds of the host's harmless nodes."""
        self._fresh("tmpfs", target, MS_NOSUID | MS_NOEXEC, "mode=755")
        dev = self._open(target, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.mkdir("shm", 0o1777, dir_fd=dev)
            for name, to in _DEV_LINKS.items():
                os.symlink(to, name, dir_fd=dev)
            for name in _DEVICES:
                os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600, dir_fd=dev))
                node = fds.open_beneath(dev, name)
                syscalls.mount(f"/dev/{name}", fds.proc_path(node), "", MS_BIND)
                os.close(node)
        finally:
            os.close(dev)

    def _show_scratch(self, target: str) -> None:
        """The scratch directory at its own path, alone: a tmpfs hides its neighbours.

        Jobs of one account (nobody's, say) could otherwise read each other's files.
        """
        parent, _, name = target.rpartition("/")
        flags = MS_NOSUID | MS_NODEV
        try:
            self._fresh("tmpfs", parent, flags, "mode=755")
        except FileNotFoundError:  # a named chroot that has no such directory yet
            os.close(fds.ensure_directory(self._root, parent))
            self._fresh("tmpfs", parent, flags, "mode=755")
        above = self._open(parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.mkdir(name, 0o700, dir_fd=above)
            point = fds.open_beneath(above, name)
            syscalls.mount(fds.proc_path(self._scratch), fds.proc_path(point), "", MS_BIND | MS_REC)
            os.close(point)
        finally:
            os.close(above)

    def _pivot(self) -> None:
        """The tree becomes "/": old root stacked under it, then gone, so that nothing leads back."""
        os.fchdir(self._root)
        syscalls.pivot_root(".", ".")
        syscalls.umount(".")
        os.chdir("/")
