"""A box without a cgroup: its processes are the descendants of its init, which is a child subreaper.

Whatever double-forks, calls setsid or clears its environment is still reparented to the init (prctl(2),
PR_SET_CHILD_SUBREAPER), so the tree under it is complete. Costs O(processes of the machine) a look: this is
the fallback where there is no cgroup, with the same methods as a cgroup's tracker.
"""

from __future__ import annotations

import os
import signal
import time

from condor_starter.isolation.boxplan import Limits, Usage

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICK_USEC = 1_000_000 // os.sysconf("SC_CLK_TCK")


def processes() -> dict[int, tuple[int, list[str]]]:
    """Every process: pid -> (parent's pid, the fields of /proc/PID/stat from the state on)."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (fields := _stat(int(name))):
            found[int(name)] = (int(fields[1]), fields)
    return found


def start_time(pid: int) -> int:
    """When ``pid`` was started, in clock ticks since boot; 0 if there is none. With the pid: an identity."""
    fields = _stat(pid)
    return int(fields[19]) if fields else 0


def _stat(pid: int) -> list[str]:
    try:
        with open(f"/proc/{pid}/stat", "rb") as f:
            data = f.read()
    except OSError:
        return []
    return data[data.rindex(b")") + 2 :].decode().split()


def descendants(root: int) -> dict[int, list[str]]:
    """The descendants of ``root`` (not itself), pid -> stat fields; zombies included."""
    everybody = processes()
    children: dict[int, list[int]] = {}
    for pid, (parent, _) in everybody.items():
        children.setdefault(parent, []).append(pid)
    found = {}
    todo = [root]
    while todo:
        for pid in children.get(todo.pop(), ()):
            found[pid] = everybody[pid][1]
            todo.append(pid)
    return found


def kill_children(timeout: float = 30.0, keep: frozenset[int] = frozenset()) -> int:
    """SIGKILL and reap every descendant of ours but ``keep`` (and theirs); returns how many there were.

    Stops them first, so that a fork bomb does not outrun us. Bounded: what is left after ``timeout`` seconds
    is in the kernel's hands.
    """
    killed: set[int] = set()
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        alive = _alive(os.getpid(), keep)
        if not alive:
            break
        for signum in (signal.SIGSTOP, signal.SIGKILL):
            _signal_all(alive, signum)
        killed |= alive
        _reap_all(killed)
    return len(killed)


def _alive(root: int, keep: frozenset[int]) -> set[int]:
    found = set(descendants(root))
    for pid in keep & found:
        found -= {pid, *descendants(pid)}
    return found


def _signal_all(pids: set[int], signum: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, signum)
        except (ProcessLookupError, PermissionError):
            continue


def _reap_all(pids: set[int]) -> None:
    for pid in pids:
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            continue


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
            _signal_all(set(self.processes()), signal.SIGSTOP)
        return True

    def thaw(self) -> None:
        _signal_all(set(self.processes()), signal.SIGCONT)

    def kill(self) -> None:
        pids = set(self.processes())
        _signal_all(pids, signal.SIGSTOP)
        _signal_all(pids, signal.SIGKILL)

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
