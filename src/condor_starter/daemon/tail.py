"""The captured standard streams of a job, while it runs and after."""

from __future__ import annotations

import os
from typing import NamedTuple

from condor_starter.daemon.httpd import ApiError
from condor_starter.daemon.job import Job

MOST = 1 << 18
"""Bytes of one answer."""


class Part(NamedTuple):
    """A piece of a stream."""

    offset: int  # of the first byte of data; larger than asked for when the beginning was not kept
    data: bytes


def read(job: Job, stream: str, offset: int, limit: int) -> Part:
    """Up to ``limit`` (at most MOST) bytes of ``stream`` from ``offset``; below zero counts from the end.

    Raises ApiError for a stream that the ad names a file for: that is the user's to read, not ours.
    """
    limit = min(MOST, max(0, limit))
    if capture := (job.comm.captures.get(stream) if job.comm else None):
        start = _start(offset, capture.size())
        return Part(start, capture.read(start, limit))
    if job.submission.streams.get(stream):
        text = f"The {stream} of job {job.number} goes to {job.submission.streams[stream]}: read that."
        raise ApiError(409, text)
    return _kept(job, stream, offset, limit) or Part(max(0, offset), b"")


def _kept(job: Job, stream: str, offset: int, limit: int) -> Part | None:
    try:
        fd = os.open(job.journal.stream(stream), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        size = os.fstat(fd).st_size
        start = _start(offset, size)
        if start < size:
            start = _data(fd, start, size)
        return Part(start, os.pread(fd, limit, start))
    finally:
        os.close(fd)


def _data(fd: int, start: int, size: int) -> int:
    """Where there is something to read from ``start`` on: the beginning of a long stream is a hole."""
    try:
        return os.lseek(fd, start, os.SEEK_DATA)
    except OSError:  # ENXIO: nothing but a hole up to the end
        return size


def _start(offset: int, size: int) -> int:
    return offset if offset >= 0 else max(0, size + offset)
