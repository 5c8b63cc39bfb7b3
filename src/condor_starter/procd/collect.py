"""How a box ended, from what is left of it: the init's last words, the counters, what the kernel did."""

from __future__ import annotations

from typing import NamedTuple

from condor_starter.isolation.boxplan import BoxExit, Usage
from condor_starter.procd.ledger import Status

_SIGKILL = 9


class Evidence(NamedTuple):
    """Everything that is known of a box in which nothing runs any more."""

    box: str
    kind: str
    status: Status | None  # None: its init was killed before it could write
    begun: bool  # the init came as far as executing the job
    usage: Usage
    tree: bool  # no cgroup: the usage is what the init reaped
    oom: bool  # the OOM killer struck inside the box's own limit
    killed: bool  # we were asked to kill it
    failure: tuple[str, int, str]  # the step, errno and text of a start that failed
    undead: list[int]  # processes that SIGKILL did not end in time


def exit_of(seen: Evidence) -> BoxExit:
    """The box's end in one record. A status that nobody could write is told by what killed the init."""
    step, number, text = seen.failure
    stuck = _stacks(seen.undead)
    status = seen.status
    if not (status or text or seen.killed or seen.oom or seen.kind == "container"):
        text = "the box's init was killed from outside"
    by_kill = _SIGKILL if seen.killed or seen.oom else -1
    return BoxExit(
        box=seen.box,
        status=status.status if status else (-1 if text else by_kill),
        usage=_with_rusage(seen),
        duration_usec=status.duration_usec if status else 0,
        oom=seen.oom,
        error="; ".join(filter(None, (text, stuck))),
        errno=number,
        step=step or ("kill" if stuck else ""),
        killed=seen.killed,
        leftovers=status.leftovers if status else 0,
        begun=seen.begun or seen.kind == "container",
    )


def _with_rusage(seen: Evidence) -> Usage:
    """A tree has no counters once it is empty: what its init reaped is the sum."""
    usage, status = seen.usage, seen.status
    if not seen.tree or status is None:
        return usage
    return usage._replace(
        user_usec=status.user_usec,
        system_usec=status.system_usec,
        memory_bytes=0,
        memory_peak_bytes=max(usage.memory_peak_bytes or 0, status.max_rss_kb * 1024),
        processes=0,
    )


def _stacks(pids: list[int]) -> str:
    """Processes that SIGKILL did not end, each with where it hangs in the kernel."""
    words = []
    for pid in pids[:8]:
        try:
            with open(f"/proc/{pid}/stack") as f:
                where = " < ".join(line.split()[-1] for line in f.readlines()[:4])
        except OSError as e:
            where = e.strerror or "?"
        words.append(f"pid {pid} does not die ({where})")
    return ", ".join(words)
