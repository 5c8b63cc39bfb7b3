"""Cgroup v1: one directory in each hierarchy. Limits, counts, and without a v2 tree freezes and kills too.

Facts that decide the order of things here (kernel's cgroup-v1 documents, checked on 6.18): FROZEN beats
everything, SIGKILL too, so kill means freeze, signal, thaw; a frozen sub-cgroup stays frozen when its parent
is thawed; FREEZING is a legal state that only reading ``freezer.state`` brings on to FROZEN.
"""

from __future__ import annotations

import os
import time

from condor_starter.isolation.boxplan import Limits
from condor_starter.procd.cgroups import files

SIGKILL = 9
FREEZE_WAIT = (0.1, 0.005)  # seconds that a kill round waits for FROZEN: the first one, and at least
CPU_SHARES = (2, 262144)  # the kernel's range


class V1:
    """A box's directories in the v1 hierarchies: ``dirs`` is controller -> directory."""

    def __init__(self, dirs: dict[str, str]) -> None:
        self.dirs = dirs
        self.paths = tuple(dict.fromkeys(dirs.values()))  # co-mounted controllers share one
        self.freezer = dirs.get("freezer", "")
        self._state = files.Kept(f"{self.freezer}/freezer.state" if self.freezer else "")
        self._freeze_wait = FREEZE_WAIT[0]

    def join_files(self) -> list[str]:
        """The files into which a process writes "0" to join."""
        return [f"{path}/cgroup.procs" for path in self.paths]

    def limit_memory(self, limits: Limits) -> list[str]:
        """memory.limit_in_bytes, memory.memsw.limit_in_bytes = memory + swap; notes of what was refused."""
        if limits.memory is None:
            return ["swap limit: v1 can limit swap only together with memory"] * (limits.swap is not None)
        path = self.dirs["memory"]
        notes = files.attempt("memory limit", f"{path}/memory.limit_in_bytes", str(limits.memory))
        if limits.swap is not None:
            both = str(limits.memory + limits.swap)
            notes += files.attempt("swap limit", f"{path}/memory.memsw.limit_in_bytes", both)
        return notes

    def limit_cpu(self, shares: int) -> list[str]:
        """cpu.shares, clamped to the kernel's range."""
        shares = min(max(shares, CPU_SHARES[0]), CPU_SHARES[1])
        return files.attempt("cpu shares", f"{self.dirs['cpu']}/cpu.shares", str(shares))

    def limit_pids(self, pids: int) -> list[str]:
        """pids.max."""
        return files.attempt("process limit", f"{self.dirs['pids']}/pids.max", str(pids))

    def nested(self) -> bool:
        """Whether the box has sub-cgroups here: a container's, for one."""
        return any(files.nested(path) for path in self.paths)

    def pids(self) -> set[int]:
        """Every live process of the subtree in any hierarchy."""
        return set().union(*(files.pids(path) for path in self.paths))

    def populated(self) -> bool:
        """Whether there is a live process in the subtree in any hierarchy."""
        return any(files.populated(path) for path in self.paths)

    def freeze(self) -> bool:
        """Ask for FROZEN; False when there is no freezer."""
        return bool(self.freezer) and files.offer(f"{self.freezer}/freezer.state", "FROZEN")

    def frozen(self) -> bool:
        """Whether every process of the freezer's subtree has stopped; a vanished cgroup counts as stopped."""
        if not self.freezer:
            return False
        state = files.read(f"{self.freezer}/freezer.state")
        return state is None or state.startswith(b"FROZEN")

    def thaw(self) -> None:
        """Thaw the subtree, parents first: a sub-cgroup that froze by itself stays frozen otherwise."""
        if not self.freezer or (self._state.read() == b"THAWED\n" and not files.nested(self.freezer)):
            return
        for fd in files.walk(self.freezer):
            files.offer("freezer.state", "THAWED", fd)

    def kill(self) -> bool:
        """One round: freeze, SIGKILL every process of every hierarchy's subtree, thaw.

        While it is frozen a process can neither fork nor leave its pid to another: True when all were.
        """
        if not self.populated():  # freezing costs more than looking, even when there is nothing to freeze
            self.thaw()
            return True
        complete = self._hold()
        try:
            for pid in self.pids():
                kill_process(pid)
        finally:
            self.thaw()
        return complete

    def _hold(self) -> bool:
        """Freeze and wait for it, less long from round to round: something may never stop."""
        if not self.freeze():
            return False
        end = time.monotonic() + self._freeze_wait
        while not self.frozen():
            if time.monotonic() >= end:
                self._freeze_wait = max(self._freeze_wait / 2, FREEZE_WAIT[1])
                return False
            time.sleep(0.001)
        return True

    def close(self) -> None:
        """Give up the descriptor."""
        self._state.close()


def kill_process(pid: int) -> None:
    """SIGKILL; no error when it is dead already."""
    try:
        os.kill(pid, SIGKILL)
    except ProcessLookupError:
        pass  # dead already
