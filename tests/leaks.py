"""What our tests must not leave behind: processes, mounts, cgroups and directories.

Other test runs may share the machine, so only what is ours counts: our descendants, and whatever has our pid
as a number of its own in its name. That is the convention of all tests: cgroups, scratch directories and
temporary directories that a test makes are named after the pid of the pytest that made them.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ME = os.getpid()
OURS = re.compile(rf"(?<!\d){ME}(?!\d)")
TOPS = ("/tmp", "/var/tmp", "/var/lib", "/run")  # where tests make directories
PATIENCE = 5.0  # seconds for what is just going away


class Traces(NamedTuple):
    """Everything of ours that can be seen on this machine at one moment."""

    processes: frozenset[str]  # "pid command line"
    mounts: frozenset[str]  # mount points
    cgroups: frozenset[str]  # directories
    directories: frozenset[str]

    def beyond(self, before: Traces, kinds: tuple[str, ...]) -> dict[str, list[str]]:
        """What is here and was not ``before``, by kind; empty when nothing is left."""
        new = {k: sorted(getattr(self, k) - getattr(before, k)) for k in kinds}
        return {k: v for k, v in new.items() if v}


def traces() -> Traces:
    """Ours, now."""
    return Traces(processes(), mounts(), cgroups(), directories())


def left_since(before: Traces, *kinds: str) -> dict[str, list[str]]:
    """What is left of ``kinds`` since ``before``, after waiting a while for it to go."""
    end = time.monotonic() + PATIENCE
    while (left := traces().beyond(before, kinds)) and time.monotonic() < end:
        time.sleep(0.05)
    return left


def processes() -> frozenset[str]:
    """Our descendants, and processes in a cgroup of ours; a zombie is its parent's business."""
    parents: dict[int, int] = {}
    found = set()
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        stat = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
        if not stat or stat[0] in "ZX":
            continue
        parents[pid] = int(stat[1])
        if OURS.search(_read(f"/proc/{pid}/cgroup")):
            found.add(pid)
    found |= {pid for pid in parents if _descends(pid, parents)}
    return frozenset(f"{pid} {_read(f'/proc/{pid}/cmdline').replace(chr(0), ' ').strip()}" for pid in found)


def mounts() -> frozenset[str]:
    """Mount points of ours in our mount namespace."""
    points = (line.split(" ")[4] for line in _read("/proc/self/mountinfo").splitlines())
    return frozenset(p for p in points if OURS.search(p))


def cgroups() -> frozenset[str]:
    """Control groups of ours, in every hierarchy."""
    return frozenset(_walk(Path("/sys/fs/cgroup"), lambda p: bool(OURS.search(str(p)))))


def remove_bases() -> None:
    """Remove our empty cgroups at the top of each hierarchy: a base outlives its procd, but not its test."""
    for top in (mount for mount in _hierarchies() if os.path.isdir(mount)):
        for entry in os.scandir(top):
            if entry.is_dir(follow_symlinks=False) and OURS.search(entry.name):
                with contextlib.suppress(OSError):  # not empty: then it is not only a base
                    os.rmdir(entry.path)


def directories() -> frozenset[str]:
    """Directories of ours at the top of those that tests use."""
    return frozenset(
        e.path for top in TOPS if os.path.isdir(top) for e in os.scandir(top) if OURS.search(e.name)
    )


def _hierarchies() -> list[str]:
    lines = (line.split(" ") for line in _read("/proc/self/mountinfo").splitlines())
    return [line[4] for line in lines if "cgroup" in line[line.index("-") + 1]]


def _descends(pid: int, parents: dict[int, int]) -> bool:
    for _ in range(64):
        pid = parents.get(pid, 0)
        if pid == ME:
            return True
        if not pid:
            break
    return False


def _walk(top: Path, wanted: Callable[[Path], bool]) -> list[str]:
    found = []
    for directory, _, _ in os.walk(top):
        if wanted(Path(directory)):
            found.append(directory)
    return found


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:  # it is gone
        return ""
