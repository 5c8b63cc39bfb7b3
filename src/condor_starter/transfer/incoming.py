"""Where received files go: the fresh scratch directory, which is ours alone until the job starts.

Names come from the peer and are hostile: each component is opened without following a link, beneath the
directory that was opened first, and a file is always a new one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

MAX_DEPTH = 64
MAX_NAME = 4096
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_BEFORE_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Arrived:
    """A received file as it was when the job had not started yet."""

    size: int
    mtime_ns: int
    inode: int


@dataclass(slots=True)
class Catalog:
    """What lay in the scratch directory before the job, by name: what differs afterwards is the job's.

    Every received file is dated a second before the transfer, to the nanosecond. The kernel's clock for
    files advances in steps of some milliseconds, so without that a job could change a file within the step
    in which we wrote it; with it any later write gives another date, and nobody has to wait a second. The
    change time would tell nothing: handing the directory to the job's user changes it.
    """

    dated_ns: int = field(default_factory=lambda: time.time_ns() - _BEFORE_NS)
    files: dict[str, Arrived] = field(default_factory=dict)

    def note(self, name: str, fd: int) -> None:
        """Date the finished file ``fd`` and remember it."""
        os.utime(fd, ns=(self.dated_ns, self.dated_ns))
        st = os.fstat(fd)
        self.files[name] = Arrived(st.st_size, st.st_mtime_ns, st.st_ino)

    def changed(self, name: str, size: int, mtime_ns: int, inode: int) -> bool:
        """Whether the job made this file or wrote to it."""
        return self.files.get(name) != Arrived(size, mtime_ns, inode)


class Scratch:
    """The scratch directory as the receiving side of a transfer. Use as a context manager."""

    def __init__(self, path: str, executable: str) -> None:
        """``executable``: the file that will be run, made executable whatever its mode was; "" for none."""
        self._root = os.open(path, _DIRECTORY)
        self._executable = executable
        self.catalog = Catalog()

    def __enter__(self) -> Scratch:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._root)

    def local_name(self, name: str) -> str:
        """``name`` as it is here: an old peer calls the executable condor_exec.exe."""
        return self._executable if name == "condor_exec.exe" and self._executable else name

    def create(self, name: str) -> int:
        """A descriptor of the new file ``name``, which the caller closes. Raises OSError.

        A file that came in the same transfer is replaced; nothing else is.
        """
        with self._parent(name) as (directory, base):
            if name in self.catalog.files:
                os.unlink(base, dir_fd=directory)
            return os.open(base, _NEW_FILE, 0o600, dir_fd=directory)

    def finish(self, fd: int, name: str, mode: int) -> None:
        """The file is complete: give it its mode and date, and remember it."""
        if name == self._executable:
            mode = 0o755
        os.fchmod(fd, (mode & 0o777 & ~0o022) or 0o644)
        self.catalog.note(name, fd)

    def mkdir(self, name: str, mode: int) -> None:
        """A directory, which may be there. Raises OSError."""
        with self._parent(name) as (directory, base):
            try:
                os.mkdir(base, 0o700 | (mode & 0o755), dir_fd=directory)
            except FileExistsError:
                os.close(os.open(base, _DIRECTORY, dir_fd=directory))

    @contextlib.contextmanager
    def _parent(self, name: str) -> Iterator[tuple[int, str]]:
        *parents, base = components(name)
        fd = os.dup(self._root)
        try:
            for part in parents:
                inner = os.open(part, _DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = inner
            yield fd, base
        finally:
            os.close(fd)


def components(name: str) -> list[str]:
    """The components of a relative name; raises OSError(EPERM) for one that leads out, or that is no name."""
    parts = [p for p in name.split("/") if p not in ("", ".")]
    bad = name.startswith("/") or not parts or ".." in parts or "\0" in name
    if bad or len(parts) > MAX_DEPTH or len(name) > MAX_NAME:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM), name)
    return parts
