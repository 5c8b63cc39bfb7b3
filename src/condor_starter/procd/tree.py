"""A box without a cgroup: its processes are the descendants of its init, which is a child subreaper.

Whatever double-forks, calls setsid or clears its environment is still reparented to the init (prctl(2),
PR_SET_CHILD_SUBREAPER), so the tree under it is complete. Costs O(processes of the machine) a look: this is
the fallback where there is no cgroup, with the same methods as a cgroup's tracker.
"""

from __future__ import annotations

import os
import signal

from condor_starter.isolation.boxplan import Limits, Usage
from condor_starter.procd.descent import descendants, signal_all

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICK_USEC = 1_000_000 // os.sysconf("SC_CLK_TCK")


class Tree:
    """The tracker of a box without a cgroup; see :class:`condor_starter.procd.cgroups.tracker.Tracker`."""

    dirs: dict[str, str] = {}  # noqa: RUF012  (never written)

    def __init__(self, init: int) -> None:
        """``init`` is the box's subreaper; 0 while there is none."""
        self.init = init
        self._peak = 0

    def limit(self, limits: Limits) -> list[str]:
        """Nothing can be limited for a tree as a whole: every wanted limit is a note."""
        wanted = [n for n, v in limits._asdict().items() if v is not None]
        return [f"{n} limit: not to be had without a cgroup" for n in wanted]

    def processes(self) -> list[int]:
        return [p for p, f in self._members().items() if f[0] != "Z"]

    def populated(self) -> bool:
        return bool(self.processes())

    def freeze(self, timeout: float) -> bool:
        """SIGSTOP to all, twice: what was forked between the look and the signal is caught by the second."""
        for _ in range(2):
            signal_all(set(self.processes()), signal.SIGSTOP)
        return True

    def thaw(self) -> None:
        signal_all(set(self.processes()), signal.SIGCONT)

    def kill(self) -> None:
        pids = set(self.processes())
        signal_all(pids, signal.SIGSTOP)
        signal_all(pids, signal.SIGKILL)

    def oom_kills(self) -> int:
        return 0

    def usage(self) -> Usage:
        """Living processes now, plus what each has reaped; memory is their resident sets' sum."""
        members = self._members().values()
        rss = sum(int(f[21]) for f in members) * _PAGE
        self._peak = max(self._peak, rss)
        return Usage(
            user_usec=sum(int(f[11]) + int(f[13]) for f in members) * _TICK_USEC,
            system_usec=sum(int(f[12]) + int(f[14]) for f in members) * _TICK_USEC,
            memory_bytes=rss,
            memory_peak_bytes=self._peak,
            processes=len(members),
        )

    def remove(self, timeout: float) -> str:
        return ""

    def close(self) -> None:
        return

    def _members(self) -> dict[int, list[str]]:
        return descendants(self.init) if self.init else {}
