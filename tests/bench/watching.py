"""What watching a job costs: one usage sample, and how soon an OOM kill is known."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable

import psutil

from bench.boxes import Blocking, blocking, descendants, name_of
from bench.machine import NAME, PIDS, Place
from bench.measure import Budget, Line, Table, Way, in_turn, timed, watching_load
from condor_starter.isolation.boxplan import Limits
from condor_starter.procd.cgroups.tracker import Tracker

MANY = 1000
SAMPLE = Budget(50, "µs")
OOM = Budget(20, "ms")
SAMPLE_WHAT = f"""\
One sample (cpu, memory now and peak, processes, OOM kills, I/O) of a running box with one process and with
{MANY}: the sample alone, as procd takes it; the request to procd and its reply, by a blocking client; and
what there is without cgroups: psutil's walk over the processes of the tree with cpu_times and memory_info
of each. (The test's own processes share all their memory: the walk would still count it for each.)"""
OOM_WHAT = """\
A job takes memory until its box's limit is hit and the kernel kills it: from the death of the process (its
pidfd) until the exit event, which says that it was the OOM killer and that the box is empty, is here."""


def samples(place: Place, quick: bool) -> Table:
    """Three ways, each at one process and at many, in turn."""
    times = 20 if quick else 100
    ways: dict[str, Way] = {}
    with blocking(place, place.memory) as client, watching_load() as load:
        trackers = []
        for count in (1, MANY):
            limits = Limits(memory=2 << 30, cpu_shares=100, pids=PIDS + MANY)
            plan = client.procds.plan([place.program("many"), str(count)], limits=limits)
            init = client.begin(plan)
            _until(lambda b=plan.box, n=count: client.call("usage", box=b)["usage"]["processes"] > n)  # type: ignore[misc]
            tracker = Tracker.reopen({k: _theirs(d, client, plan.box) for k, d in place.cgroups.dirs.items()})
            trackers.append(tracker)
            words = f"{count} process" + "es" * (count > 1)
            ways[f"one sample, {words}"] = lambda t=tracker: timed(t.usage, times, 1e6)  # type: ignore[misc]
            ways[f"asked of procd, {words}"] = lambda b=plan.box: timed(  # type: ignore[misc]
                lambda: client.call("usage", box=b), times, 1e6
            )
            ways[f"psutil, {words}"] = lambda p=init: timed(lambda: _walk(p), max(1, times // 20), 1e6)  # type: ignore[misc]
        taken = in_turn(ways, 3 if quick else 20, 10 if quick else 40)
        for tracker in trackers:
            tracker.close()
    lines = [Line(name, values, ours=name.startswith("one sample")) for name, values in taken.items()]
    return Table("sample", "One usage sample", "µs", SAMPLE_WHAT, lines, SAMPLE, load=load[0])


def _theirs(directory: str, client: Blocking, box: str) -> str:
    """The directory of a box of a procd, from ours in the same hierarchy."""
    return f"{directory.removesuffix(NAME)}{client.procds.cgroup}/{box}"


def _walk(root: int) -> list[object]:
    process = psutil.Process(root)
    return [(p.cpu_times(), p.memory_info()) for p in [process, *process.children(recursive=True)]]


def _until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.01)


def out_of_memory(place: Place, quick: bool) -> Table:
    """From the victim's death to knowing why."""
    with blocking(place, place.memory) as client, watching_load() as load:
        taken = in_turn({"procd": lambda: [_oom(client, place)]}, 3 if quick else 25, 20)
    lines = [Line("procd", taken["procd"], "event-driven", ours=True)]
    return Table("oom", "OOM kill to knowing it", "ms", OOM_WHAT, lines, OOM, load=load[0])


def _oom(client: Blocking, place: Place) -> float:
    plan = client.procds.plan(["/bin/sh", "-c", f"sleep 0.1; exec {place.program('eat')}"])
    init = client.begin(plan)
    victim = next(p for p in descendants(init) if name_of(p) in ("sh", "eat"))
    pidfd = os.pidfd_open(victim)
    try:
        select.select([pidfd], [], [], 20)
        died = time.perf_counter()
    finally:
        os.close(pidfd)
    ended = client.exit(plan.box)
    took = time.perf_counter() - died
    assert ended.oom, ended
    assert os.WTERMSIG(ended.status) == signal.SIGKILL
    client.call("destroy", box=plan.box)
    return took * 1e3
