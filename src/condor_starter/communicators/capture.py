"""A standard stream that nobody named: kept in the scratch directory while the job runs, in our state after.

The file is made in the fresh scratch directory, which is nobody's but ours until the job starts, and handed
to the job as an open descriptor. So it works in any chroot and any working directory, it counts against the
scratch directory's size, and we read it by our own descriptor, whatever the job does to its name.
"""

from __future__ import annotations

import os
from pathlib import Path

from condor_starter.sandbox.worker import SandboxWorker

KEEP = 1 << 20
"""Bytes of each stream that outlive the job: its end, where the error message is."""

_CHUNK = 1 << 18


class Capture:
    """One captured stream; owns its descriptor."""

    def __init__(self, fd: int) -> None:
        self.fd = fd  # read with pread(2) only: the job writes through the same open file

    @classmethod
    def create(cls, scratch: str, name: str) -> Capture:
        """In the fresh scratch directory. Raises OSError."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        return cls(os.open(os.path.join(scratch, name), flags, 0o644))

    @classmethod
    async def reopen(cls, worker: SandboxWorker, name: str) -> Capture:
        """Of a job that an earlier process started: with the job user's ids. Raises OSError."""
        return cls(await worker.open(name))

    def size(self) -> int:
        """Bytes in it now."""
        return os.fstat(self.fd).st_size

    def read(self, offset: int, limit: int) -> bytes:
        """Up to ``limit`` bytes from ``offset``."""
        return os.pread(self.fd, limit, offset)

    def preserve(self, path: Path) -> int:
        """Write the end of it (KEEP bytes) to ``path``; returns its whole size. Raises OSError.

        A stream of which the beginning is missing is stored as a sparse file, so that offsets stay true.
        """
        size = self.size()
        if size == 0:
            return 0
        start = max(0, size - KEEP)
        target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            while start < size and (data := self.read(start, _CHUNK)):
                start += os.pwrite(target, data, start)
        finally:
            os.close(target)
        return size

    def close(self) -> None:
        """Close the descriptor; more than once does no harm."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
