"""Whichever of our processes dies under a pool's job: the job goes on, or runs again, and leaves nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from pool.harness import Job, Kind, Pool, Starter, eventually

pytestmark = pytest.mark.ours

WAITS = """#!/bin/sh
(setsid env -i /bin/sleep @MARK@ </dev/null >/dev/null 2>&1 &) &
touch /home/alice/@MARK@.up
while [ ! -e /home/alice/@MARK@.go ]; do sleep 0.1; done
exit 9
"""
_marks = iter(range(200000, 300000))


@pytest.fixture(scope="module")
def crash_pool() -> Iterator[Pool]:
    """A pool whose daemons of ours may be killed; they are started again, as by a service manager."""
    with Pool(Starter.DAEMON) as pool:
        yield pool


@pytest.fixture
def running(crash_pool: Pool) -> Iterator[tuple[Pool, Job, str]]:
    """A job that runs until ``<mark>.go`` exists, and has left a daemon."""
    mark = str(next(_marks))
    job = crash_pool.submit("waits", WAITS.replace("@MARK@", mark))
    eventually("the job is up", (crash_pool.home("alice") / f"{mark}.up").exists)
    job.wait(Kind.EXECUTE)
    eventually("its daemon runs", lambda: crash_pool.job_processes(f"sleep {mark}"))
    yield crash_pool, job, mark
    crash_pool.forget_jobs()
    crash_pool.remember()
    crash_pool.assert_clean(30)


def heads(pool: Pool, words: str) -> list[int]:
    """The processes with these words in their command line that somebody started: no clones, no orphans."""
    found = [p for p in pool.processes() if words in p.command and not p.command.startswith("env ")]
    clones = {p.pid for p in found}
    return [p.pid for p in found if p.parent not in clones and p.parent != pool.pid]


VICTIMS = {"starterd": "bin/condor_starterd", "thin": "condor_starter -f"}


@pytest.mark.parametrize("victim", VICTIMS)
@pytest.mark.req("X3", "G2", "H1")
def test_a_pool_job_runs_again_after_what_speaks_for_it_was_killed(
    running: tuple[Pool, Job, str], victim: str
) -> None:
    pool, job, mark = running
    first = {p.pid for p in pool.job_processes(f"sleep {mark}")}
    (process,) = heads(pool, VICTIMS[victim])
    os.kill(process, signal.SIGKILL)
    eventually("the first run's processes are gone", lambda: not first & _pids(pool), 30)
    job.wait(Kind.EXECUTE, count=2, timeout=60)
    pool.put(f"{mark}.go", "")
    assert "return value 9" in job.ended().text
    assert job.ad()["NumJobStarts"] == 2


def _pids(pool: Pool) -> set[int]:
    return {p.pid for p in pool.processes()}


@pytest.mark.req("X3", "H1")
def test_a_pool_job_does_not_notice_that_procd_was_killed(running: tuple[Pool, Job, str]) -> None:
    pool, job, mark = running
    (old,) = heads(pool, "procd/main.py")
    os.kill(old, signal.SIGKILL)
    eventually("the next procd is up", lambda: heads(pool, "procd/main.py") not in ([], [old]), 30)
    pool.put(f"{mark}.go", "")
    assert "return value 9" in job.ended().text
    assert job.ad()["NumJobStarts"] == 1
