"""One slot of a real pool: how long our starter takes around a job, beside HTCondor's own in the same run.

    python tests/bench/pool_jobs.py [--quick]

Pools with our starter and with the genuine one run at the same time, each in namespaces of its own; they
take turns with rounds of jobs (/bin/true), and the kernel's process events say when starters and jobs began
and ended.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[0] = str(TESTS)

from bench import page, pool_events  # noqa: E402
from bench.measure import Budget, Line, Table, watching_load  # noqa: E402
from bench.pool_events import Process  # noqa: E402
from pool.harness import USERS, Kind, Pool, Starter  # noqa: E402

ONE_SLOT = "NUM_CPUS = 1\nRUNBENCHMARKS = 0\n"
PLAIN = "USE_PID_NAMESPACES = false\n"  # as the genuine one is configured out of the box


class Way(NamedTuple):
    """One starter under one configuration."""

    name: str
    starter: Starter
    cgroups: str = "host"
    config: str = ""

    @property
    def ours(self) -> bool:
        return self.starter is not Starter.GENUINE


WAYS = (
    Way("condor_starter 23.9, as it comes", Starter.GENUINE, config=PLAIN),
    Way("the same with cgroup and pid namespace", Starter.GENUINE, cgroups="v1"),
    Way("ours: thin client, starterd, procd", Starter.DAEMON),
    Way("ours in a process of its own", Starter.DIRECT),
)


class Work(NamedTuple):
    """What the jobs of a table do."""

    key: str
    title: str
    lines: tuple[str, ...]  # of the submit file
    files: bool
    jobs: int  # in each round; the genuine starter may need a second for each


WORK = (
    Work("no-transfer", "without file transfer", (), False, 40),
    Work("transfer", "with file transfer", ("transfer_input_files = in.txt",), True, 10),
    Work(
        "transfer-listed",
        "with file transfer and transfer_output_files",
        ("transfer_input_files = in.txt", "transfer_output_files = in.txt"),
        True,
        20,
    ),
)


class Sample(NamedTuple):
    """One job: milliseconds."""

    start: float  # starter exec to job exec
    end: float  # job exit to starter exit
    life: float  # starter exec to starter exit


class Round(NamedTuple):
    """A row of jobs on one slot."""

    samples: list[Sample]
    rate: float  # jobs a second, from the first starter's exec to the last one's exit


def measure(quick: bool = False) -> list[Table]:
    """All tables; minutes, or less than one and a half when ``quick``. Needs root."""
    with contextlib.ExitStack() as stack:
        pools = {w: stack.enter_context(_pool(w)) for w in WAYS}
        return [table for work in WORK for table in _tables(work, pools, 1 if quick else 4)]


@contextlib.contextmanager
def _pool(way: Way) -> Iterator[Pool]:
    with Pool(way.starter, cgroups=way.cgroups, config=ONE_SLOT + way.config) as pool:
        pool.put("in.txt", "input\n")
        _round(pool, WORK[0], 3)  # what happens only once
        yield pool


def _tables(work: Work, pools: dict[Way, Pool], rounds: int) -> list[Table]:
    taken: dict[Way, list[Round]] = {way: [] for way in pools}
    with watching_load() as load:
        for _ in range(rounds):
            for way, pool in pools.items():
                taken[way].append(_round(pool, work, work.jobs))
    return list(_as_tables(work, taken, load[0]))


def _round(pool: Pool, work: Work, jobs: int) -> Round:
    """``jobs`` jobs one after the other, and what the kernel saw of them."""
    lines = ("executable = /bin/true", "transfer_executable = false", *work.lines)
    with pool_events.recording() as events:
        job = pool.submit("bench", "", *lines, files=work.files, count=jobs)
        job.wait(Kind.TERMINATED, count=jobs, timeout=60 + 5 * jobs)
        pool.forget_jobs()
        pool.assert_clean()
        found = pool_events.read(events)
    return _look(found, _startd(pool), jobs)


def _startd(pool: Pool) -> int:
    return next(p.pid for p in pool.processes() if p.command.startswith("condor_startd"))


def _look(found: list[Process], startd: int, jobs: int) -> Round:
    """Put each job to its starter: there is one slot, so their times do not overlap."""
    starters = [p for p in found if p.parent and p.parent.pid == startd and p.execs and p.exited]
    users = [p for p in found if p.execs and p.exited and _is_users(p)]
    samples = []
    for starter in starters:
        began = starter.execs[0]
        inside = [p for p in users if began < p.execs[-1] < starter.exited]
        if inside:
            # the last exec: HTCondor's init for a pid namespace comes before the job
            samples.append(_sample(began, max(inside, key=lambda p: p.execs[-1]), starter.exited))
    seen = f"{len(starters)} starters, {len(users)} processes of the user, {len(samples)} jobs"
    assert len(samples) == jobs, f"{jobs} jobs were run, but the kernel's events tell of {seen}"
    first, last = starters[0].execs[0], max(p.exited for p in starters)
    return Round(samples, (jobs - 1) / ((last - first) / 1e9))


def _sample(began: int, job: Process, ended: int) -> Sample:
    return Sample((job.execs[-1] - began) / 1e6, (ended - job.exited) / 1e6, (ended - began) / 1e6)


def _is_users(process: Process | None) -> bool:
    """Whether it, or one that it descends from, became alice for good."""
    while process is not None:
        if USERS["alice"] in process.uids:
            return True
        process = process.parent
    return False


BUDGETS = {
    ("no-transfer", "life"): Budget(27, "ms"),
    ("no-transfer", "rate"): Budget(27, "jobs/s", least=True),
    ("transfer", "start"): Budget(60, "ms"),
    ("transfer", "rate"): Budget(12, "jobs/s", least=True),
}
FIGURES = {
    "start": "starter exec to job exec",
    "end": "job exit to starter exit",
    "life": "starter exec to starter exit",
}
HOW = (
    "/bin/true as an ordinary user under a real HTCondor pool ({title}), one slot, claim and shadow kept "
    "from job to job. Times by the kernel's process events. Ours always has its cgroup and its namespaces."
)


def _as_tables(work: Work, taken: dict[Way, list[Round]], load: str) -> Iterator[Table]:
    what = HOW.format(title=work.title)
    for figure, words in FIGURES.items():
        values = {w: [getattr(s, figure) for r in rounds for s in r.samples] for w, rounds in taken.items()}
        yield _table(work, figure, words, "ms", values, what, load)
    rates = {w: [r.rate for r in rounds] for w, rounds in taken.items()}
    yield _table(work, "rate", "jobs on one slot", "jobs/s", rates, what, load)


def _table(
    work: Work, figure: str, words: str, unit: str, values: dict[Way, list[float]], what: str, load: str
) -> Table:
    lines = [Line(w.name, v, ours=w.starter is Starter.DAEMON) for w, v in values.items()]
    title = f"A pool's slot {work.title}: {words}"
    return Table(
        f"pool-{work.key}-{figure}", title, unit, what, lines, BUDGETS.get((work.key, figure)), load=load
    )


if __name__ == "__main__":
    for table in measure("--quick" in sys.argv):
        print(page.text(table) + "\n", flush=True)
