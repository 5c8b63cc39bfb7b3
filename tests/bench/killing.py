"""A fork bomb of a thousand processes, half of them in other sessions: from the kill to an empty box."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator

from bench.boxes import Blocking, blocking
from bench.machine import Place
from bench.measure import Budget, Line, Table, Way, in_turn, watching_load
from condor_starter.isolation.boxplan import Limits
from condor_starter.procd import syscalls
from condor_starter.procd.cgroups.tracker import Tracker

PROCESSES = 1000
BUDGET = Budget(150, "ms")
GIVE_UP = 3.0
WHAT = f"""\
The bomb forks until {PROCESSES} processes are there, which is the limit of its cgroup, and goes on trying;
every other child calls setsid. Ours: the kill request until the exit event, which is sent when the kernel
says that the box is empty. The others get the same bomb in cgroups alone and kill by hand until those are
empty or {GIVE_UP:g} seconds have passed: a loop of SIGKILL to every process listed, and killpg of the
process group."""


def measure(place: Place, quick: bool) -> Table:
    """Each way on bombs of its own, in turn."""
    left = {"a loop of kill": 0, "killpg": 0}
    with blocking(place, place.memory) as client, watching_load() as load:

        def naively(name: str, round_of: Callable[[_LooseBomb], None]) -> Way:
            def turn() -> list[float]:
                with _loose_bomb(place) as bomb:
                    took = bomb.kill_by(round_of)
                    left[name] = max(left[name], len(bomb.tracker.processes()))
                return [took * 1e3]

            return turn

        ways = {
            "procd": lambda: _boxed_bomb(client, place),
            "a loop of kill": naively("a loop of kill", _LooseBomb.kill_all),
            "killpg": naively("killpg", _LooseBomb.kill_group),
        }
        taken = in_turn(ways, 3 if quick else 12, 15 if quick else 60)
    notes = {n: f"up to {many} left when we gave up" if many else "none left" for n, many in left.items()}
    notes["procd"] = "none left"
    lines = [Line(name, values, notes[name], ours=name == "procd") for name, values in taken.items()]
    return Table("kill", "Fork bomb: kill to empty", "ms", WHAT, lines, BUDGET, load=load[0])


def _boxed_bomb(client: Blocking, place: Place) -> list[float]:
    limits = Limits(memory=2 << 30, cpu_shares=100, pids=PROCESSES)
    plan = client.procds.plan([place.program("bomb")], limits=limits)
    client.begin(plan)
    _until_full(lambda: int(client.call("usage", box=plan.box)["usage"]["processes"] or 0))
    began = time.perf_counter()
    client.call("kill", box=plan.box)
    ended = client.exit(plan.box)
    took = time.perf_counter() - began
    assert not ended.error, ended
    client.call("destroy", box=plan.box)
    return [took * 1e3]


def _until_full(count: Callable[[], int]) -> None:
    end = time.monotonic() + 20
    while count() < PROCESSES * 0.98:
        assert time.monotonic() < end, f"the bomb has only {count()} processes"
        time.sleep(0.01)


class _LooseBomb:
    """A bomb in cgroups of ours, without a box."""

    def __init__(self, tracker: Tracker, pid: int) -> None:
        self.tracker = tracker
        self.pid = pid

    def kill_all(self) -> None:
        """One round of the loop."""
        for pid in self.tracker.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def kill_group(self) -> None:
        """One round of killpg: the bomb's first process leads its group."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            time.sleep(0.001)

    def kill_by(self, round_of: Callable[[_LooseBomb], None]) -> float:
        """Seconds until it is empty, or until we give up."""
        began = time.perf_counter()
        while self.tracker.populated() and time.perf_counter() - began < GIVE_UP:
            round_of(self)
        return time.perf_counter() - began


@contextlib.contextmanager
def _loose_bomb(place: Place) -> Iterator[_LooseBomb]:
    """A bomb at its full size. While it lives we are who reaps its orphans, by ignoring SIGCHLD."""
    tracker = Tracker.create(place.cgroups, "bomb")
    tracker.limit(Limits(pids=PROCESSES))
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    join = 'bomb=$1; shift; for file; do echo $$ >"$file"; done; exec "$bomb"'
    files = tracker.join_files(with_v2=True)
    words = ["sh", "-c", join, "sh", place.program("bomb"), *files]
    process = subprocess.Popen(words, start_new_session=True)
    try:
        _until_full(lambda: len(tracker.processes()))
        yield _LooseBomb(tracker, process.pid)
    finally:
        tracker.remove(20)
        tracker.close()
        process.wait(10)
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 0)
        signal.signal(signal.SIGCHLD, before)
