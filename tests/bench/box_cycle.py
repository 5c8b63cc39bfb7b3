"""A box from nothing to nothing: what procd adds to what the kernel needs for it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

from bench.boxes import Blocking, Looping, blocking, looping
from bench.machine import Place
from bench.measure import Budget, Line, Table, Way, in_turn, watching_load
from bench.peers import Peer, all_peers

BUDGET = Budget(2.5, "ms")
WHAT = """\
A static program that returns at once, run in pid, mnt, ipc, uts and net namespaces, in cgroups with limits
of memory, cpu and processes, with /tmp, /var/tmp and /dev/shm of its own. Ours: ledger entry, scratch
directory, box, job, last usage, exit event, everything removed: four requests (make, start, destroy and the
exit event) by a client in another process. On a disk whose file system discards freed blocks at once each
rmdir waits for the disk; so ours is measured on tmpfs, too, and the C program also with a scratch directory
of its own."""


def measure(place: Place, quick: bool) -> Table:
    """Ours by both clients and on both file systems, and every peer, in turn."""
    cycles, rounds, seconds = (10, 5, 12.0) if quick else (25, 24, 90.0)
    peers, missing = all_peers(place)
    program = [place.program("true")]
    with contextlib.ExitStack() as stack:
        ours: dict[str, Blocking | Looping] = {
            "procd": stack.enter_context(blocking(place, place.memory)),
            "procd, asyncio client": stack.enter_context(looping(place, place.memory)),
            "procd, scratch on disk": stack.enter_context(blocking(place, place.disk)),
        }
        ways = {peer.name: _peer(peer, cycles) for peer in peers}
        ways |= {name: _ours(client, program, cycles) for name, client in ours.items()}
        load = stack.enter_context(watching_load())
        taken = in_turn(ways, rounds, seconds)
    notes = {
        "procd": "blocking client, scratch on tmpfs",
        "procd, asyncio client": "condor_starterd's client, scratch on tmpfs",
        "procd, scratch on disk": "blocking client",
    } | {p.name: p.note for p in peers}
    lines = [Line(name, values, notes[name], ours=name in ours) for name, values in taken.items()]
    return Table("box", "One box, whole cycle", "ms", WHAT, lines, BUDGET, tuple(missing), load[0])


def _peer(peer: Peer, cycles: int) -> Way:
    return lambda: peer.turn(cycles)


def _ours(client: Blocking | Looping, argv: Sequence[str], cycles: int) -> Way:
    def turn() -> list[float]:
        found: list[float] = []
        for _ in range(cycles):
            plan = client.procds.plan(argv)
            began = time.perf_counter()
            ended = client.cycle(plan)
            found.append((time.perf_counter() - began) * 1e3)
            assert ended.status == 0, ended
        return found

    return turn
