"""A whole local job, ad in to result out: by the daemon, by hand, and by HTCondor's own starter."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.boxes import descendants, name_of
from bench.daemon import submit_many
from bench.machine import HERE, NAME, Place
from bench.measure import Budget, Line, Table, Way, in_turn, timed, watching_load
from bench.memory import JOBS, private
from bench.peers import Peer
from condor_starter.cli.client import Client
from system import daemon_help

JOB = Budget(7, "ms")
RATE = Budget(150, "jobs/s", least=True)
POOL = HERE.parent / "env" / "pool.sh"
CACHE = Path(os.environ.get("CONDOR_STARTER_CACHE", "/var/cache/condor-starter"))
IN_FLIGHT = 4
WHAT = """\
The ad of a job that returns at once; box, output streams, usage, result ad, everything removed.
condor_starterd: POST to the unix socket and a long poll until the terminal record is there. By hand: a
whole `starterctl run` with a procd of its own, interpreter's start and all. The genuine starter:
`condor_starter -f -job-input-ad F -job-output-ad F` as root, a whole process, which is what a startd starts
for each job; without cgroup and pid namespace, which is its default here."""
RATE_WHAT = f"""\
The same daemon, {IN_FLIGHT} clients, fifty jobs of each in flight: finished jobs a second, one figure for
each turn."""
MEMORY_WHAT = f"""\
The same daemon: private memory of condor_starterd with nothing to do, and what each of {JOBS} sleeping jobs
adds to condor_starterd, procd and the box inits."""


def measure(place: Place, quick: bool) -> list[Table]:
    """Latency, throughput, memory."""
    base = place.disk / "daemon"
    base.mkdir(mode=0o755)
    run = place.run / "daemon"
    run.mkdir(mode=0o755)
    with daemon_help.machine(base, f"{NAME}-daemon", run) as machine:
        machine.start()
        tables = [_latency(place, machine, quick), _rate(place, machine, quick), _memory(place, machine)]
        machine.kill_starterd(15)
    return tables


def _latency(place: Place, machine: daemon_help.Machine, quick: bool) -> Table:
    ad = daemon_help.ad(place.program("true"), RequestMemory=64)
    jobs = 10 if quick else 25
    missing: tuple[str, ...] = ()
    with machine.client() as client, watching_load() as load:
        ways: dict[str, Way] = {
            "condor_starterd": lambda: timed(lambda: _one(client, ad), jobs),
            "starterctl run": lambda: timed(_by_hand(place, ad), 1 if quick else 3),
        }
        genuine = _genuine()
        if genuine:
            ways[genuine.name] = lambda: genuine.turn(jobs)
        else:
            missing = ("HTCondor's own condor_starter: no tree of a pool here (tests/env/pool.sh install)",)
        taken = in_turn(ways, 3 if quick else 20, 15 if quick else 60)
    notes = {"condor_starterd": "the daemon runs already", "starterctl run": "a private procd each time"}
    if genuine:
        notes[genuine.name] = genuine.note
    lines = [Line(n, v, notes[n], ours=n == "condor_starterd") for n, v in taken.items()]
    return Table("job", "A whole local job", "ms", WHAT, lines, JOB, missing, load[0])


def _one(client: Client, ad: bytes) -> None:
    job = daemon_help.ended(client, client.submit(ad)["id"])
    assert job["outcome"]["exit_status"] == 0, job


def _by_hand(place: Place, ad: bytes) -> Callable[[], object]:
    path = place.disk / "job.ad"
    path.write_bytes(ad)
    code = "import sys; from condor_starter.cli.starterctl import main; sys.exit(main())"
    knobs = {
        "EXECUTE": place.disk / "by-hand",
        "LOG": place.disk / "by-hand-log",
        "STARTER_RUN_DIR": place.run / "by-hand",
        "BASE_CGROUP": f"{NAME}-hand",
    }
    words = [sys.executable, "-c", code, "run", *(f"--knob={k}={v}" for k, v in knobs.items()), str(path)]
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    return lambda: subprocess.run(words, env=env, check=True, capture_output=True, timeout=60)


def _genuine() -> Peer | None:
    """HTCondor's own starter in a throw-away copy of the pool's tree, if that has been made."""
    if not (CACHE / "pool" / "trixie" / ".complete").exists():
        return None
    make = 'printf %s "$1" >/tmp/job.ad; chmod 644 /tmp/job.ad; code=$2; shift 2'
    make += '; exec python3 -I -S -c "$code" "$@"'
    ad = 'Cmd = "/bin/true"\nOwner = "alice"\nUser = "alice@here"\n'
    starter = "/usr/sbin/condor_starter -f -job-input-ad /tmp/job.ad -job-output-ad /tmp/out.ad".split()
    words = [str(POOL), "solo", "sh", "-c", make, "sh", ad, (HERE / "loop.py").read_text(), "N", *starter]
    peer = Peer(
        "condor_starter (HTCondor's)", ["env", "POOL_STARTER=genuine", *words], "local mode, /bin/true"
    )
    try:
        peer.turn(1)
    except (RuntimeError, subprocess.TimeoutExpired) as e:
        print(f"bench: {peer.name}: {e}", file=sys.stderr)
        return None
    return peer


def _rate(place: Place, machine: daemon_help.Machine, quick: bool) -> Table:
    jobs = 200 if quick else 1000

    def turn() -> list[float]:
        began = time.perf_counter()
        with ThreadPoolExecutor(IN_FLIGHT) as pool:
            list(pool.map(lambda n: submit_many(machine.client(), n), [jobs // IN_FLIGHT] * IN_FLIGHT))
        return [jobs / (time.perf_counter() - began)]

    with watching_load() as load:
        taken = in_turn({"condor_starterd": turn}, 2 if quick else 6, 60)
    lines = [Line("condor_starterd", taken["condor_starterd"], ours=True)]
    return Table("rate", "Jobs a second, one machine", "jobs/s", RATE_WHAT, lines, RATE, load=load[0])


def _memory(place: Place, machine: daemon_help.Machine) -> Table:
    with machine.client() as client, watching_load() as load:
        idle = {name: private(pids) for name, pids in _processes(machine).items()}
        ad = daemon_help.ad(place.program("many"), RequestMemory=64)
        numbers = [client.submit(ad)["id"] for _ in range(JOBS)]
        for number in numbers:
            daemon_help.until(lambda n=number: client.job(n)["state"] == "running")  # type: ignore[misc]
        busy = {name: private(pids) for name, pids in _processes(machine).items()}
        for number in numbers:
            client.ask(number, "vacate")
        for number in numbers:
            daemon_help.ended(client, number)
    each = {name: (busy[name] - idle[name]) / JOBS for name in idle}
    lines = [Line("each running job", [sum(each.values())], "private, all processes of ours", ours=True)]
    lines += [Line(f"of which {name}", [size]) for name, size in each.items()]
    lines.append(
        Line("condor_starterd, nothing to do", [idle["condor_starterd"]], "private; not for each job")
    )
    return Table(
        "daemon-memory",
        "Memory with condor_starterd",
        "MB",
        MEMORY_WHAT,
        lines,
        Budget(2.5, "MB"),
        load=load[0],
    )


def _processes(machine: daemon_help.Machine) -> dict[str, list[int]]:
    assert machine.starterd and machine.procd
    procd = machine.procd.pid
    inits: Iterable[int] = (p for p in descendants(procd) if name_of(p) == "starter_init")
    return {"condor_starterd": [machine.starterd.pid], "procd": [procd], "box inits": list(inits)}
