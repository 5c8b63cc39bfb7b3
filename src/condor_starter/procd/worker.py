"""The sandbox worker: a child of procd with the job user's ids that opens a job's files for others.

It holds no capability, sees one directory by descriptor, resolves every name beneath it (openat2), and
answers one JSON request a packet with one packet, a descriptor by SCM_RIGHTS where one is asked for. Requests
and replies are those of :class:`condor_starter.sandbox.worker.SandboxWorker`. It ends with its socket.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
from typing import Any, NoReturn

from condor_starter.isolation.boxplan import Identity
from condor_starter.procd import ids, syscalls

_BENEATH = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_MAGICLINKS
_OPEN_FLAGS = os.O_ACCMODE | os.O_CREAT | os.O_EXCL | os.O_TRUNC | os.O_APPEND
_PAGE = 200  # directory entries in one reply
_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "link"}


def fork_worker(scratch_fd: int, identity: Identity) -> tuple[int, int, socket.socket]:
    """Start a worker: its pid, its pidfd and the client's end of its socket. Raises OSError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        pid, pidfd = syscalls.clone(0)
        if pid == 0:
            _main(scratch_fd, identity, theirs)
    return pid, pidfd, ours


def _main(scratch_fd: int, identity: Identity, sock: socket.socket) -> NoReturn:
    try:
        syscalls.close_all_but({scratch_fd, sock.fileno()})
        os.umask(0o022)
        if os.geteuid() == 0:
            syscalls.drop_bounding_set()
        ids.become(identity)
        serve(scratch_fd, sock)
    finally:
        os._exit(0)


def serve(root: int, sock: socket.socket) -> None:
    """Answer requests about what lies beneath directory ``root`` until the peer closes."""
    while data := sock.recv(65536):
        fd = -1
        try:
            reply, fd = _answer(root, json.loads(data))
        except OSError as e:
            reply = {"errno": e.errno or errno.EIO}
        except (KeyError, TypeError, ValueError):
            reply = {"errno": errno.EINVAL}
        socket.send_fds(sock, [json.dumps(reply).encode()], [fd] if fd >= 0 else [])
        if fd >= 0:
            os.close(fd)


def _answer(root: int, request: dict[str, Any]) -> tuple[dict[str, Any], int]:
    name = request["name"]
    match request["op"]:
        case "open":
            return {}, _open(root, name, request["flags"] & _OPEN_FLAGS, request["mode"] & 0o777)
        case "list":
            return _list(root, name, request["after"]), -1
        case "stat":
            with _parent(root, name) as (dirfd, base):
                return {"entry": _entry(dirfd, base)}, -1
        case "mkdir":
            with _parent(root, name) as (dirfd, base):
                os.mkdir(base, request["mode"] & 0o777, dir_fd=dirfd)
        case "rename":
            with _parent(root, name) as (old, base), _parent(root, request["new"]) as (new, to):
                os.rename(base, to, src_dir_fd=old, dst_dir_fd=new)
        case "remove":
            with _parent(root, name) as (dirfd, base):
                _remove(dirfd, base)
        case _:
            return {"errno": errno.ENOSYS}, -1
    return {}, -1


class _parent:
    """The directory that holds ``name``, opened beneath the root, and the last component."""

    def __init__(self, root: int, name: str) -> None:
        head, base = os.path.split(name.rstrip("/"))
        if base in ("", ".", ".."):
            raise OSError(errno.EINVAL, f"{name!r} names nothing")
        self._base = base
        self._fd = syscalls.openat2(root, head or ".", os.O_PATH | os.O_DIRECTORY, _BENEATH)

    def __enter__(self) -> tuple[int, str]:
        return self._fd, self._base

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _open(root: int, name: str, flags: int, mode: int) -> int:
    """A regular file's descriptor; O_NONBLOCK so that a FIFO answers at once (and is refused)."""
    if not flags & os.O_CREAT:
        mode = 0
    fd = syscalls.openat2(root, name, flags | os.O_NONBLOCK | os.O_NOCTTY, _BENEATH, mode)
    kind = os.fstat(fd).st_mode
    if not stat.S_ISREG(kind):
        os.close(fd)
        raise OSError(errno.EISDIR if stat.S_ISDIR(kind) else errno.EINVAL, name)
    os.set_blocking(fd, True)
    return fd


def _list(root: int, name: str, after: int) -> dict[str, Any]:
    """A page of the directory; ``next`` is where the following page starts, 0 at the end."""
    fd = syscalls.openat2(root, name, os.O_RDONLY | os.O_DIRECTORY, _BENEATH)
    try:
        names = sorted(os.listdir(fd))
        entries = []
        for base in names[after : after + _PAGE]:
            try:
                entries.append(_entry(fd, base))
            except FileNotFoundError:
                continue
        more = after + _PAGE if after + _PAGE < len(names) else 0
        return {"entries": entries, "next": more}
    finally:
        os.close(fd)


def _entry(dirfd: int, base: str) -> list[Any]:
    st = os.stat(base, dir_fd=dirfd, follow_symlinks=False)
    kind = _KINDS.get(stat.S_IFMT(st.st_mode), "other")
    return [base, kind, st.st_size, st.st_mode & 0o7777, st.st_mtime_ns, st.st_ctime_ns, st.st_ino]


def _remove(dirfd: int, base: str) -> None:
    if stat.S_ISDIR(os.stat(base, dir_fd=dirfd, follow_symlinks=False).st_mode):
        os.rmdir(base, dir_fd=dirfd)
    else:
        os.unlink(base, dir_fd=dirfd)
