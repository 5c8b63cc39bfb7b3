"""The one way to cgroup files: read, write, walk, remove. Everything else in this room goes through here.

A cgroup that has vanished (ENOENT; ENODEV on a descriptor of a removed one) is not an error: whoever wanted
to freeze, kill or count it has what they wanted. That is said here once, in :func:`gone`, and the functions
that answer None or False are the ones that have asked it. Every other failure is a :class:`CgroupError`,
which shows the file and the data written.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator

_STAT_SIZE = 32768  # memory.stat is the longest file that is read whole by one pread: 2 to 6 KB


class CgroupError(OSError):
    """A cgroup file or directory that could not be used: its path and, for a write, the data."""

    def __init__(self, number: int, action: str, path: str) -> None:
        super().__init__(number, os.strerror(number), path)
        self.action = action

    def __str__(self) -> str:
        return f"{self.action} {self.filename}: {self.strerror}"


def gone(error: OSError) -> bool:
    """Whether ``error`` says that the cgroup (or one of its files) is not there any more."""
    return error.errno in (errno.ENOENT, errno.ENODEV)


def _open(path: str, flags: int, dir_fd: int | None = None) -> int:
    """open(2); where a job with our own uid took the permissions away, give them back and try again."""
    flags |= os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags, dir_fd=dir_fd)
    except PermissionError as refused:
        try:
            os.chmod(path, 0o755 if flags & os.O_DIRECTORY else 0o644, dir_fd=dir_fd)
        except OSError:
            raise refused from None
        return os.open(path, flags, dir_fd=dir_fd)


def read(path: str, dir_fd: int | None = None) -> bytes | None:
    """The whole file, read afresh; None when it is gone. Raises CgroupError."""
    try:
        fd = _open(path, os.O_RDONLY, dir_fd)
        try:
            parts = []
            while part := os.read(fd, 65536):
                parts.append(part)
            return b"".join(parts)
        finally:
            os.close(fd)
    except OSError as e:
        if gone(e):
            return None
        raise CgroupError(e.errno or 0, "read", path) from None


def write(path: str, data: str, dir_fd: int | None = None) -> None:
    """Write ``data`` in one write(2). Raises CgroupError, also when the file is gone."""
    try:
        fd = _open(path, os.O_WRONLY, dir_fd)
        try:
            os.write(fd, data.encode())
        finally:
            os.close(fd)
    except OSError as e:
        raise CgroupError(e.errno or 0, f"write {data!r} to", path) from None


def offer(path: str, data: str, dir_fd: int | None = None) -> bool:
    """As :func:`write`, but False when the file is gone."""
    try:
        write(path, data, dir_fd)
    except CgroupError as e:
        if gone(e):
            return False
        raise
    return True


def attempt(what: str, path: str, data: str) -> list[str]:
    """Write a wish that may be refused: an empty list, or one note in words that begins with ``what``."""
    try:
        write(path, data)
    except CgroupError as e:
        return [f"{what}: {e}"]
    return []


def make(path: str) -> None:
    """Make one cgroup. Raises CgroupError, FileExistsError's errno included."""
    try:
        os.mkdir(path, 0o755)
    except OSError as e:
        raise CgroupError(e.errno or 0, "make cgroup", path) from None


def make_all(top: str, name: str, prepare: Callable[[str], None]) -> str:
    """Make what is missing of ``top/name``, ``prepare`` each level before the next; the innermost path."""
    for part in name.split("/"):
        top = f"{top}/{part}"
        if not os.path.isdir(top):
            try:
                make(top)
            except CgroupError as e:
                if e.errno != errno.EEXIST:  # another procd made it just now
                    raise
        prepare(top)
    return top


def nested(path: str) -> bool:
    """Whether the cgroup has sub-cgroups, by its link count (kernfs: 2 + directories), without listing it."""
    try:
        return os.stat(path).st_nlink > 2
    except OSError as e:
        if gone(e):
            return False
        raise CgroupError(e.errno or 0, "look at", path) from None


def walk(path: str, leave: Callable[[int, str], object] | None = None) -> Iterator[int]:
    """An open directory descriptor of every cgroup of the subtree, parents first; the walk closes them.

    ``leave(parent descriptor, name)`` is called when a sub-cgroup's whole subtree has been seen. Goes by
    descriptors, one held for each level, so that neither the depth nor the names that a job chose matter;
    sub-cgroups that vanish under way are passed over. Raises CgroupError.
    """
    levels: list[tuple[int, str, list[str]]] = []
    try:
        if _enter(levels, path):
            yield levels[-1][0]
        while levels:
            fd, name, children = levels[-1]
            if children:
                if _enter(levels, children.pop()):
                    yield levels[-1][0]
                continue
            levels.pop()
            os.close(fd)
            if levels and leave is not None:
                leave(levels[-1][0], name)
    finally:
        for fd, _, _ in levels:
            os.close(fd)


def _enter(levels: list[tuple[int, str, list[str]]], name: str) -> bool:
    """Open a sub-cgroup as the walk's next level; False when it has vanished."""
    try:
        fd = _open(name, os.O_RDONLY | os.O_DIRECTORY, levels[-1][0] if levels else None)
    except OSError as e:
        if gone(e):
            return False
        raise CgroupError(e.errno or 0, "open", name) from None
    children: list[str] = []
    levels.append((fd, name, children))
    try:
        with os.scandir(fd) as entries:
            children.extend(e.name for e in entries if e.is_dir(follow_symlinks=False))
    except OSError as e:
        if not gone(e):
            raise CgroupError(e.errno or 0, "list", name) from None
    return True


def remove(path: str, dir_fd: int | None = None) -> bool:
    """Remove one cgroup; True when it is not there any more, False while something is in it."""
    try:
        os.rmdir(path, dir_fd=dir_fd)
    except OSError as e:
        if gone(e):
            return True
        if e.errno in (errno.EBUSY, errno.ENOTEMPTY):
            return False
        raise CgroupError(e.errno or 0, "remove cgroup", path) from None
    return True


def remove_tree(path: str) -> bool:
    """Remove a cgroup and all beneath it, deepest first; True when nothing of it is left."""
    if remove(path):
        return True
    for _ in walk(path, leave=lambda parent, name: remove(name, parent)):
        pass
    return remove(path)


def pids(path: str) -> set[int]:
    """The processes of the whole subtree, dead ones not counted; 0 (outside our pid namespace) left out.

    Each file is opened afresh: v1 keeps the list of an open cgroup.procs for up to a second.
    """
    found: set[int] = set()
    for fd in walk(path):
        found.update(_procs(fd))
    found.discard(0)
    return found


def populated(path: str) -> bool:
    """Whether any cgroup of the subtree has a process, by its cgroup.procs."""
    if read(f"{path}/cgroup.procs"):
        return True
    return nested(path) and any(_procs(fd) for fd in walk(path))


def _procs(fd: int) -> list[int]:
    try:
        return [int(pid) for pid in (read("cgroup.procs", fd) or b"").split()]
    except CgroupError as e:
        if e.errno == errno.EOPNOTSUPP:  # a threaded v2 cgroup: its domain's root lists the processes
            return []
        raise


def field(text: bytes, name: bytes) -> int | None:
    """The number after ``name`` in a flat-keyed file (``name value`` lines); None when it is not there."""
    start = 0 if text.startswith(name + b" ") else text.find(b"\n" + name + b" ") + 1
    if start == 0 and not text.startswith(name + b" "):
        return None
    end = text.find(b"\n", start)
    return int(text[start + len(name) + 1 : end if end >= 0 else None])


class Kept:
    """A file that is read again and again: opened at the first read, then read by pread(2).

    A file that is not there stays not there: ``read`` answers None from then on. Also what polls wait
    on: kernfs wakes a poll for POLLPRI when the file changed since the descriptor's last read.
    """

    __slots__ = ("_fd", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd: int | None = None

    @property
    def fd(self) -> int:
        """The descriptor, still ours; -1 when there is no such file."""
        if self._fd is None:
            try:
                self._fd = _open(self.path, os.O_RDONLY)
            except OSError:
                self._fd = -1
        return self._fd

    def read(self) -> bytes | None:
        """The file now; None when it is missing, has vanished or may not be read."""
        fd = self.fd
        if fd < 0:
            return None
        try:
            return os.pread(fd, _STAT_SIZE, 0)
        except OSError:
            return None

    def number(self) -> int | None:
        """The single number in the file; None when it is missing or is the word ``max``."""
        text = self.read()
        return int(text) if text and text[:1].isdigit() else None

    def close(self) -> None:
        if self._fd is not None and self._fd >= 0:
            os.close(self._fd)
        self._fd = -1
