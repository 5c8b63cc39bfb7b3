"""Cgroup v2: one directory in the unified tree. Tracks, freezes and kills, also without any controller.

Facts (kernel's cgroup-v2.rst): cgroup.kill reaches every descendant, forks under way included, and works on
frozen processes; cgroup.events says ``populated`` and ``frozen`` of the whole subtree and wakes POLLPRI.
"""

from __future__ import annotations

import os

from condor_starter.isolation.boxplan import Limits
from condor_starter.procd.cgroups import files
from condor_starter.procd.cgroups.v1 import kill_process

CPU_WEIGHT = (1, 10000)  # the kernel's range


class V2:
    """A box's directory in the v2 tree."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.events = files.Kept(f"{path}/cgroup.events")

    def controllers(self) -> tuple[str, ...]:
        """The controllers that this cgroup has."""
        return tuple((files.read(f"{self.path}/cgroup.controllers") or b"").decode().split())

    def limit_memory(self, limits: Limits) -> list[str]:
        """memory.max, memory.swap.max and memory.oom.group; notes of what was refused."""
        notes = files.attempt("whole-box OOM kill", f"{self.path}/memory.oom.group", "1")
        if limits.memory is not None:
            notes += files.attempt("memory limit", f"{self.path}/memory.max", str(limits.memory))
        if limits.swap is not None:
            notes += files.attempt("swap limit", f"{self.path}/memory.swap.max", str(limits.swap))
        return notes

    def limit_cpu(self, shares: int) -> list[str]:
        """cpu.weight: HTCondor writes its 100 x Cpus here unchanged, within the kernel's range."""
        weight = min(max(shares, CPU_WEIGHT[0]), CPU_WEIGHT[1])
        return files.attempt("cpu shares", f"{self.path}/cpu.weight", str(weight))

    def limit_pids(self, pids: int) -> list[str]:
        """pids.max."""
        return files.attempt("process limit", f"{self.path}/pids.max", str(pids))

    def clone_fd(self) -> int:
        """A directory descriptor for CLONE_INTO_CGROUP, which the caller closes; -1: the cgroup is gone."""
        try:
            return os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as e:
            if files.gone(e):
                return -1
            raise

    def pids(self) -> set[int]:
        """Every live process of the subtree."""
        return files.pids(self.path)

    def populated(self) -> bool:
        """Whether there is a live process in the subtree; re-arms a poll on ``events``."""
        return files.field(self.events.read() or b"", b"populated") == 1

    def freeze(self) -> bool:
        """Ask for it; False when the kernel is too old (before 5.2)."""
        return files.offer(f"{self.path}/cgroup.freeze", "1")

    def frozen(self) -> bool:
        """Whether every process of the subtree has stopped; a vanished cgroup counts as stopped."""
        text = self.events.read()
        return text is None or files.field(text, b"frozen") == 1

    def thaw(self) -> None:
        """Thaw the subtree, sub-cgroups that froze by themselves included."""
        for fd in files.walk(self.path):
            files.offer("cgroup.freeze", "0", fd)

    def kill(self) -> bool:
        """SIGKILL everything in the subtree: by cgroup.kill (5.14), else process by process while frozen.

        True when nothing can have been missed, forks under way included.
        """
        if files.offer(f"{self.path}/cgroup.kill", "1"):
            return True
        self.freeze()
        for pid in self.pids():
            kill_process(pid)
        self.thaw()
        return False

    def close(self) -> None:
        """Give up the descriptor."""
        self.events.close()
