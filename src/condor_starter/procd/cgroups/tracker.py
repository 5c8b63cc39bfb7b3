"""One box, one tracker: limits, freezes, kills, counts and removes whatever is in the box's cgroups.

The same on every machine. Where there is a v2 tree, with or without controllers, it tracks, kills and
freezes; where controllers are mounted as v1 they limit and count. A container engine on a hybrid machine puts
its processes only into the v1 hierarchies, so kill, freeze, count and removal always look there too. Without
a v2 tree v1 does everything.
"""

from __future__ import annotations

import errno
import select
import time
from collections.abc import Callable

from condor_starter.isolation.boxplan import Limits, Usage
from condor_starter.procd.cgroups import files
from condor_starter.procd.cgroups.base import Base, base, remove_base
from condor_starter.procd.cgroups.files import CgroupError
from condor_starter.procd.cgroups.oom import OomV1, OomV2
from condor_starter.procd.cgroups.usage import Sampler
from condor_starter.procd.cgroups.v1 import V1
from condor_starter.procd.cgroups.v2 import V2

__all__ = ["Base", "CgroupError", "Tracker", "base", "remove_base"]

_NAP = 0.02  # seconds between looks while an event may tell
_BEAT = 0.001  # seconds between looks where no event will
_KILL_AGAIN = 0.1  # seconds until what a complete kill round left dying is killed once more
_V2_FREEZE = 0.25  # seconds for v2 to freeze alone: twice what a live fork bomb of 1000 needs
_SHOWN = 5  # processes that a message about leftovers names


class Tracker:
    """The cgroups of one box. Make one with :meth:`create` or, after a crash, :meth:`reopen`."""

    def __init__(self, dirs: dict[str, str], adopted: bool) -> None:
        self.dirs = dirs
        self.notes: list[str] = []
        self._v1 = V1({key: path for key, path in dirs.items() if key != "v2"})
        self._v2 = V2(dirs["v2"]) if "v2" in dirs else None
        self._oom: OomV1 | OomV2 | None = None
        if "memory" in self._v1.dirs:
            self._oom = OomV1(self._v1.dirs["memory"], adopted)
        elif self._v2 is not None:
            self._oom = OomV2(self._v2.path)
        self._killed_until = 0.0
        self._sampler = Sampler(self._v1.dirs, dirs.get("v2", ""))

    # -- life ------------------------------------------------------------------

    @staticmethod
    def plan(base: Base, name: str) -> dict[str, str]:
        """What :meth:`create` will make, for the ledger, first: "v2" or a v1 controller -> directory."""
        if not name or "/" in name or name in (".", ".."):
            raise ValueError(f"not a name for a cgroup: {name!r}")
        return {key: f"{path}/{name}" for key, path in base.dirs.items()}

    @classmethod
    def create(cls, base: Base, name: str) -> Tracker:
        """Make the box's cgroups. What an earlier box of that name left is removed if nothing lives in it.

        A v1 hierarchy that refuses is left out with a note in ``notes``, unless it is the one that tracks.
        Raises CgroupError; nothing is left behind then.
        """
        wanted, dirs, notes = cls.plan(base, name), dict[str, str](), list[str]()
        tracking = "v2" if "v2" in wanted else "freezer" if "freezer" in wanted else next(iter(wanted), "")
        try:
            for key, path in wanted.items():
                try:
                    if path not in dirs.values():
                        _make_fresh(path)
                    dirs[key] = path
                except CgroupError as e:
                    if key == tracking or e.errno == errno.EEXIST:
                        raise
                    notes.append(f"{key}: {e}")
        except CgroupError:
            for path in dirs.values():
                files.remove(path)
            raise
        tracker = cls(dirs, adopted=False)
        tracker.notes = notes
        return tracker

    @classmethod
    def reopen(cls, dirs: dict[str, str]) -> Tracker:
        """The tracker of a box that an earlier procd made; directories that have vanished do no harm."""
        return cls(dirs, adopted=True)

    def close(self) -> None:
        """Give up the descriptors; the cgroups stay."""
        self._sampler.close()
        self._v1.close()
        if self._oom is not None:
            self._oom.close()
        if self._v2 is not None:
            self._v2.close()

    def remove(self, timeout: float) -> str:
        """Remove all of the box's cgroups, killing what is left in them, within ``timeout`` seconds.

        Returns "" or, in words, what would not go: cgroups, and processes with their kernel stacks.
        """
        end = time.monotonic() + timeout
        while True:
            left, why = self._remove_once()
            if not left:
                return ""
            if time.monotonic() >= end:
                return self._leftovers(left, why)
            self.kill()
            self._until(lambda: not self.populated(), min(end, time.monotonic() + _KILL_AGAIN))
            time.sleep(_BEAT)

    def _remove_once(self) -> tuple[list[str], str]:
        left, why = [], ""
        for path in dict.fromkeys(self.dirs.values()):
            try:
                if not files.remove_tree(path):
                    left.append(path)
            except CgroupError as e:
                left.append(path)
                why = str(e)
        return left, why

    def _leftovers(self, left: list[str], why: str) -> str:
        pids = self.processes()
        words = [f"cgroups not removed: {', '.join(left)}", *([why] if why else [])]
        words += [describe_process(pid) for pid in pids[:_SHOWN]]
        if len(pids) > _SHOWN:
            words.append(f"and {len(pids) - _SHOWN} more processes")
        return "; ".join(words)

    # -- start -----------------------------------------------------------------

    def clone_fd(self) -> int:
        """A descriptor of the v2 cgroup for CLONE_INTO_CGROUP, which the caller closes; -1: there is none."""
        return self._v2.clone_fd() if self._v2 is not None else -1

    def join_files(self, with_v2: bool = False) -> list[str]:
        """The files into which the child writes "0" before anything else.

        ``with_v2`` where the kernel has no CLONE_INTO_CGROUP (before 5.7).
        """
        unified = [f"{self._v2.path}/cgroup.procs"] if with_v2 and self._v2 is not None else []
        return unified + self._v1.join_files()

    def limit(self, limits: Limits) -> list[str]:
        """Set the limits; notes in words, ``create``'s included, of what could not be had: file and data."""
        notes = list(self.notes)
        if limits.memory is not None or limits.swap is not None:
            part = self._part("memory")
            notes += part.limit_memory(limits) if part else ["memory limit: no memory controller here"]
        if limits.cpu_shares is not None:
            part = self._part("cpu")
            notes += part.limit_cpu(limits.cpu_shares) if part else ["cpu shares: no cpu controller here"]
        if limits.pids is not None:
            part = self._part("pids")
            notes += part.limit_pids(limits.pids) if part else ["process limit: no pids controller here"]
        return notes

    def _part(self, controller: str) -> V1 | V2 | None:
        if controller in self._v1.dirs:
            return self._v1
        return self._v2 if self._v2 is not None and controller in self._v2.controllers() else None

    # -- watch -----------------------------------------------------------------

    def populated(self) -> bool:
        """Whether anything lives in the box: the whole subtree, every hierarchy. Re-arms ``empty_fd``.

        A zombie does not count: empty does not mean that every exit status was collected.
        """
        return (self._v2 is not None and self._v2.populated()) or self._v1.populated()

    def processes(self) -> list[int]:
        """The live processes, every hierarchy and sub-cgroup."""
        return sorted(self._v1.pids() | (self._v2.pids() if self._v2 is not None else set()))

    def empty_fd(self) -> int:
        """A descriptor (ours) to poll for POLLPRI: ask :meth:`populated` on each wake-up. -1: no v2 tree."""
        if self._v2 is None:
            return -1
        self._v2.events.read()
        return self._v2.events.fd

    def oom_fd(self) -> int:
        """A descriptor (ours) to poll for POLLIN|POLLPRI: ask :meth:`oom_struck` on wake-ups. -1: none."""
        return self._oom.fd() if self._oom is not None else -1

    def oom_kills(self) -> int:
        """Processes that an OOM killer took, sub-cgroups included; the machine's own killer counts too."""
        return self._oom.kills() if self._oom is not None else 0

    def oom_struck(self) -> bool:
        """Whether a process was killed because the box hit its *own* memory limit; re-arms ``oom_fd``."""
        return self._oom is not None and self._oom.struck()

    def usage(self) -> Usage:
        """What the box has used so far; cost independent of the number of its processes."""
        return self._sampler.sample(self.oom_kills())

    # -- stop ------------------------------------------------------------------

    def freeze(self, timeout: float) -> bool:
        """Stop everything; True when all of it has stopped within ``timeout`` seconds.

        v1 is asked as well when there are processes that only it knows, or that it froze before: those never
        get to v2's frozen state.
        """
        end = time.monotonic() + timeout
        if self._v2 is not None and self._v2.freeze():
            alone = end if not self._v1.freezer else min(end, time.monotonic() + _V2_FREEZE)
            if self._until(self._v2.frozen, alone) and not self._only_v1():
                return True
        if self._v1.freeze():
            return self._until(self._v1.frozen, end)
        return not self.populated()

    def thaw(self) -> None:
        """Let everything run again, sub-cgroups that were frozen by themselves included."""
        self._v1.thaw()
        if self._v2 is not None:
            self._v2.thaw()

    def kill(self) -> None:
        """One round of SIGKILL for everything in the box; call again while :meth:`populated`.

        Does not wait, but for v1.FREEZE_WAIT at most where only v1's freezer can stop forks. A round that got
        all that could fork is not repeated for _KILL_AGAIN seconds: that would only hold up the dying.
        """
        now = time.monotonic()
        alive = self._v2 is None or self._v2.populated()
        if now < self._killed_until and alive:
            self._v1.thaw()
            return
        complete = self._v2 is None or self._v2.kill()
        if self._v2 is None or self._v1_has_more(alive):
            complete = self._v1.kill() and complete
        else:
            self._v1.thaw()  # v1's FROZEN holds up even cgroup.kill
        self._killed_until = now + _KILL_AGAIN if complete else 0.0

    def _v1_has_more(self, alive: bool) -> bool:
        """Whether there is something that cgroup.kill does not reach.

        While the v2 tree is ``alive`` a look costs more the more processes there are, so only sub-cgroups are
        a reason for it; for what sits in the box's own v1 cgroups alone a round after that is soon enough.
        """
        if alive:
            return self._v1.nested() and bool(self._only_v1())
        return self._v1.populated()

    def _only_v1(self) -> set[int]:
        """Processes that are in the v1 hierarchies and not in the v2 tree.

        The second look at v1 sorts out those that had ended when v2 was looked at.
        """
        assert self._v2 is not None
        others = self._v1.pids() - self._v2.pids()
        return others & self._v1.pids() if others else others

    def _until(self, done: Callable[[], bool], end: float) -> bool:
        while not done():
            if time.monotonic() >= end:
                return False
            self._nap(end)
        return True

    def _nap(self, end: float) -> None:
        """Wait for the next event of the v2 cgroup, or for a moment where there is none to come."""
        if self._v2 is None or not self._v2.populated():
            time.sleep(_BEAT)
            return
        poll = select.poll()
        poll.register(self._v2.events.fd, select.POLLPRI)
        poll.poll(max(0.0, min(_NAP, end - time.monotonic())) * 1000)


def _make_fresh(path: str) -> None:
    """Make a cgroup that inherits nothing: an empty one of that name is removed first. Raises CgroupError."""
    try:
        files.make(path)
    except CgroupError as e:
        if e.errno != errno.EEXIST or files.populated(path) or not files.remove_tree(path):
            raise
        files.make(path)


def describe_process(pid: int) -> str:
    """A process that does not die, for the log: name, state, and the kernel stack that says why."""
    stat = (files.read(f"/proc/{pid}/stat") or b"").decode(errors="replace")
    name, state = stat[stat.find("(") + 1 : stat.rfind(")")], stat[stat.rfind(")") + 2 :][:1]
    try:
        stack = (files.read(f"/proc/{pid}/stack") or b"").decode().splitlines()
    except CgroupError:
        stack = []
    frames = " < ".join(line.split()[-1] for line in stack[:4] if line)
    return f"pid {pid} ({name}) state {state or 'gone'}" + (f" in {frames}" if frames else "")
