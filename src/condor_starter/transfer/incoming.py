"""Where received files go: the fresh scratch directory, which is ours alone until the job starts.

Names come from the peer and are hostile: each component is opened without following a link, beneath the
directory that was opened first, and a file is always a new one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from collections.abc import Iterator, Mapping

MAX_DEPTH = 64
MAX_NAME = 4096
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_BEFORE_NS = 1_000_000_000


class Scratch:
    """The scratch directory as the receiving side of a transfer. Use as a context manager."""

    def __init__(self, path: str, executable: str, remaps: Mapping[str, str]) -> None:
        """``executable``: the file that will be run, made executable whatever its mode was; "" for none.
        ``remaps``: names here for names of the submit side (TransferInputRemaps).
        """
        self._root = os.open(path, _DIRECTORY)
        self._executable = executable
        self._remaps = remaps
        self._arrived: set[str] = set()
        self._dated_ns = time.time_ns() - _BEFORE_NS

    def __enter__(self) -> Scratch:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._root)

    def local_name(self, name: str) -> str:
        """``name`` as it is here: an old peer calls the executable condor_exec.exe."""
        if name == "condor_exec.exe" and self._executable:
            return self._executable
        return self._remaps.get(name, name)

    def create(self, name: str) -> int:
        """A descriptor of the new file ``name``, which the caller closes. Raises OSError.

        A file that came in the same transfer is replaced; nothing else is.
        """
        with self._parent(name) as (directory, base):
            if name in self._arrived:
                os.unlink(base, dir_fd=directory)
            return os.open(base, _NEW_FILE, 0o600, dir_fd=directory)

    def finish(self, fd: int, name: str, mode: int) -> None:
        """The file is complete: give it its mode, and a date of a second ago, to the nanosecond.

        The kernel's clock for files advances in steps of some milliseconds, so without that a job could
        change a file within the step in which we wrote it, and nobody would see it. With it any later write
        gives another date, and the job need not wait for the next second before it may start.
        """
        if name == self._executable:
            mode = 0o755
        os.fchmod(fd, (mode & 0o777 & ~0o022) or 0o644)
        os.utime(fd, ns=(self._dated_ns, self._dated_ns))
        self._arrived.add(name)

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


def parse_remaps(text: str) -> dict[str, str]:
    """``a = b; c = d``, as submit files write TransferInputRemaps: a backslash takes the next character as
    it is.
    """
    found = {}
    for piece in _split(text, ";"):
        old, *new = _split(piece, "=")
        if new and old.strip() and new[0].strip():
            found[_plain(old.strip())] = _plain("=".join(new).strip())
    return found


def _split(text: str, at: str) -> list[str]:
    return re.split(rf"(?<!\\){at}", text)


def _plain(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)
