"""How long a job through starterd takes, and how many a second: real boxes, HTTP in, terminal record out.

    python tests/bench/daemon.py [JOBS [DIRECTORY]]

Prints the latency of one job after the other (POST, long poll, answer), the throughput with many at once, the
memory of both daemons. Run as root for full boxes. Scratch directories and job records are made in DIRECTORY
(/var/tmp), the sockets and procd's ledger on tmpfs, as on a machine where /run is one.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[1]))

from condor_starter.cli.client import Client
from condor_starter.cli.verbs import install
from system import daemon_help
from system.daemon_help import Machine, ad, ended

TRUE = ad("/bin/true", RequestMemory=64)


def main() -> None:
    """Measure, print."""
    jobs = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    where = sys.argv[2] if len(sys.argv) > 2 else "/var/tmp"
    prefix = f"bench-{os.getpid()}-"
    with (
        TemporaryDirectory(dir=where, prefix=prefix) as name,
        TemporaryDirectory(dir="/dev/shm", prefix=prefix) as run,
    ):
        base = Path(name)
        base.chmod(0o755)
        os.chmod(run, 0o755)
        with daemon_help.machine(base, f"bench-{os.getpid()}", Path(run)) as machine:
            machine.start()
            for _ in range(3):
                latency(machine, jobs // 5)
            for clients in (1, 2, 4):
                throughput(machine, jobs, clients)
            memory(machine)
            thin_start(machine)


def latency(machine: Machine, jobs: int) -> None:
    """One job after the other."""
    times = []
    with machine.client() as client:
        for _ in range(jobs):
            began = time.perf_counter()
            number = client.submit(TRUE)["id"]
            job = ended(client, number)
            times.append(1e3 * (time.perf_counter() - began))
            assert job["outcome"]["exit_status"] == 0
    times.sort()
    p10, p90 = times[len(times) // 10], times[len(times) * 9 // 10]
    print(
        f"one after the other: {statistics.median(times):.2f} ms (p10 {p10:.2f}, p90 {p90:.2f}), {jobs} jobs"
    )


def throughput(machine: Machine, jobs: int, clients: int) -> None:
    """Many at once."""
    before = [cpu(p.pid) for p in (machine.starterd, machine.procd) if p]
    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(lambda n: submit_many(machine.client(), n), [jobs // clients] * clients))
    seconds = time.perf_counter() - began
    used = [cpu(p.pid) - b for p, b in zip((machine.starterd, machine.procd), before, strict=True) if p]
    each = ", ".join(f"{1e3 * u / jobs:.2f} ms" for u in used)
    rate = jobs / seconds
    print(f"many at once: {rate:.0f} jobs/s from {clients} clients; cpu a job of starterd, procd: {each}")


def submit_many(client: Client, jobs: int) -> None:
    """Submit, keeping fifty in flight."""
    with client:
        waiting: list[int] = []
        for _ in range(jobs):
            waiting.append(client.submit(TRUE)["id"])
            if len(waiting) >= 50:
                ended(client, waiting.pop(0))
        for number in waiting:
            ended(client, number)


def thin_start(machine: Machine, runs: int = 100) -> None:
    """The thin client's own cost, beside Python's: it finds no starterd and executes /bin/true."""
    python = os.path.realpath(sys.executable)
    script = machine.base / "starter"
    source = install.script(Path(python), "/nonexistent", 0).decode()
    script.write_text(source[: source.rindex("\nmain(")] + "\nmain('/nonexistent', (), (b'/bin/true',))\n")
    script.chmod(0o755)
    commands = {
        "thin client": [str(script)],
        "python -c pass": [python, "-c", "pass"],
        "python -IS -c pass": [python, "-IS", "-c", "pass"],
        "/bin/true": ["/bin/true"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(runs):
        for name, argv in commands.items():
            began = time.perf_counter()
            os.waitpid(os.posix_spawn(argv[0], argv, daemon_help.ENV), 0)
            times[name].append(1e3 * (time.perf_counter() - began))
    print(", ".join(f"{name} {statistics.median(t):.1f} ms" for name, t in times.items()))


def cpu(pid: int) -> float:
    """Seconds of cpu that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(machine: Machine) -> None:
    """Private memory, and what a job that runs adds."""
    with machine.client() as client:
        idle = private(machine)
        numbers = [client.submit(ad("/bin/sleep", "600", RequestMemory=64))["id"] for _ in range(20)]
        for number in numbers:
            daemon_help.until(lambda n=number: client.job(n)["state"] == "running")
        busy = private(machine)
        for number in numbers:
            client.ask(number, "vacate")
        for number in numbers:
            ended(client, number)
    for name, before, after in zip(("starterd", "procd"), idle, busy, strict=True):
        each = (after - before) / 20
        print(f"{name}: {before / 1024:.1f} MiB private, and {each:.0f} KiB for each running job")


def private(machine: Machine) -> list[int]:
    """Private memory of starterd and procd in KiB."""
    found = []
    for process in (machine.starterd, machine.procd):
        assert process
        lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
        found.append(sum(int(line.split()[1]) for line in lines if line.startswith("Private_")))
    return found


if __name__ == "__main__":
    main()
