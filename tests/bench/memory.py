"""Memory that is ours: procd with nothing to do, and what each running job adds, over all our processes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from bench.boxes import Blocking, blocking, descendants, name_of
from bench.machine import Place
from bench.measure import Budget, Line, Table, watching_load

JOBS = 20
PROCD = Budget(15, "MB")
JOB = Budget(2.5, "MB")
WHAT = f"""\
smaps_rollup of procd, of its nursery and of every box init, after one box has come and gone; then again
with {JOBS} sleeping jobs, whose own processes do not count. Private memory (Private_Clean + Private_Dirty)
is what would be free if it were not for us; what inits share with the nursery is in the PSS."""


def measure(place: Place, quick: bool) -> list[Table]:
    """Two tables: procd alone, and each running job."""
    with blocking(place, place.memory) as client, watching_load() as load:
        client.cycle(client.procds.plan([place.program("true")]))
        idle = _ours(client)
        alone = [("procd", [client.pid]), ("its nursery and the init made ahead", idle - {client.pid})]
        lines = [line for name, pids in alone for line in _lines(name, pids)]
        lines.insert(0, Line("procd and its nursery, together", [_sum(idle, "Pss")], "PSS", ours=True))
        before = {"pss": _sum(idle, "Pss"), "private": private(idle)}
        plans = [client.procds.plan([place.program("many")]) for _ in range(JOBS)]
        for plan in plans:
            client.begin(plan)
        busy = _ours(client)
        after = {"pss": _sum(busy, "Pss"), "private": private(busy)}
        for plan in plans:
            client.call("kill", box=plan.box)
            client.exit(plan.box)
            client.call("destroy", box=plan.box)
    grown = {kind: (after[kind] - before[kind]) / JOBS for kind in before}
    each = [Line("each running job", [grown["private"]], "private, procd's share included", ours=True)]
    each.append(Line("the same", [grown["pss"]], "PSS"))
    return [
        Table("memory", "procd's memory", "MB", WHAT, lines, PROCD, load=load[0]),
        Table("job-memory", "Memory for each running job", "MB", WHAT, each, JOB, load=load[0]),
    ]


def _ours(client: Blocking) -> set[int]:
    """procd and what it runs that is no job."""
    return {client.pid} | {p for p in descendants(client.pid) if name_of(p) == "starter_init"}


def _lines(name: str, pids: Iterable[int]) -> list[Line]:
    return [Line(name, [_sum(pids, "Rss")], "RSS"), Line(name, [private(pids)], "private")]


def private(pids: Iterable[int]) -> float:
    """Megabytes that would be free without these processes."""
    pids = list(pids)
    return _sum(pids, "Private_Clean") + _sum(pids, "Private_Dirty")


def _sum(pids: Iterable[int], kind: str) -> float:
    """Megabytes."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith(f"{kind}:"):
                    total += int(line.split()[1]) * 1024
    return total / 1e6
