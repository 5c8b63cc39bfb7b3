"""condor_rm, condor_hold, condor_suspend, condor_vacate_job: what a user may ask of a running job."""

from __future__ import annotations

import time

import pytest

from pool.harness import Job, Kind, Pool, eventually

# Leaves its kill signal's name in the user's home, and a counter that shows whether it is running.
WATCHED = """#!/bin/sh
here=/home/alice/@NAME@
trap 'echo TERM >>$here.sig; exit 7' TERM
trap 'echo INT >>$here.sig; exit 8' INT
(setsid env -i /bin/sleep @MARK@ </dev/null >/dev/null 2>&1 &) &
sleep @MARK@ &
n=0
while :; do n=$((n + 1)); echo $n >$here.count; sleep 0.1; done
"""
_marks = iter(range(100000, 200000))


class Watched:
    """A running WATCHED job."""

    def __init__(self, pool: Pool, *lines: str) -> None:
        self.pool, self.mark = pool, str(next(_marks))
        self.name = f"watched-{self.mark}"
        script = WATCHED.replace("@NAME@", self.name).replace("@MARK@", self.mark)
        self.job: Job = pool.submit("watched", script, *lines)
        self.job.wait(Kind.EXECUTE)
        eventually("the job counts", lambda: self.count() > 1)
        eventually("its daemon and its child run", lambda: len(self.sleepers()) == 2)

    def count(self) -> int:
        path = self.pool.home("alice") / f"{self.name}.count"
        return int((path.read_text() if path.exists() else "") or 0)

    def signals(self) -> list[str]:
        path = self.pool.home("alice") / f"{self.name}.sig"
        return path.read_text().split() if path.exists() else []

    def sleepers(self) -> list[int]:
        return [p.pid for p in self.pool.job_processes(f"sleep {self.mark}")]

    def gone(self) -> None:
        """Nothing of it is left: not the job, not its child, not its setsid, env -i daemon."""
        eventually("all its processes are gone", lambda: not self.sleepers(), 20)
        self.pool.assert_clean()


@pytest.mark.req("H1", "P3", "G2")
@pytest.mark.direct
def test_condor_rm_ends_the_job_and_everything_that_it_started(pool: Pool) -> None:
    running = Watched(pool)
    running.job.do("condor_rm")
    assert running.job.ended().kind == Kind.ABORTED
    running.gone()
    assert running.job.ad()["JobStatus"] == 3


@pytest.mark.req("H1", "N1")
def test_condor_rm_first_asks_the_job_with_its_kill_signal(pool: Pool) -> None:
    running = Watched(pool, "want_graceful_removal = true", "remove_kill_sig = SIGINT")
    running.job.do("condor_rm")
    assert running.job.ended().kind == Kind.ABORTED
    running.gone()
    assert running.signals() == ["INT"]


@pytest.mark.req("H1")
def test_condor_hold_stops_the_job_and_condor_release_runs_it_again(pool: Pool) -> None:
    running = Watched(pool)
    running.job.do("condor_hold")
    event = running.job.wait(Kind.HELD)
    assert "via condor_hold (by user alice)" in event.text
    assert "Code 1 Subcode 0" in event.text
    running.gone()
    running.job.do("condor_release")
    running.job.wait(Kind.EXECUTE, count=2)
    running.job.do("condor_rm")
    running.job.wait(Kind.ABORTED)
    running.gone()


@pytest.mark.req("H1", "G7")
@pytest.mark.direct
def test_condor_suspend_freezes_every_process_and_condor_continue_thaws_them(pool: Pool) -> None:
    running = Watched(pool)
    running.job.do("condor_suspend")
    running.job.wait(Kind.SUSPENDED)
    eventually("the counter stands still", lambda: _stands_still(running), 20)
    assert len(running.sleepers()) == 2
    running.job.do("condor_continue")
    running.job.wait(Kind.UNSUSPENDED)
    seen = running.count()
    eventually("the counter goes on", lambda: running.count() > seen, 20)
    running.job.do("condor_rm")
    assert running.job.ended().kind == Kind.ABORTED
    running.gone()


def _stands_still(running: Watched) -> bool:
    seen = running.count()
    time.sleep(0.5)  # five turns of the job's loop
    return running.count() == seen


@pytest.mark.req("H1", "G7")
def test_a_suspended_job_can_be_removed(pool: Pool) -> None:
    running = Watched(pool)
    running.job.do("condor_suspend")
    running.job.wait(Kind.SUSPENDED)
    running.job.do("condor_rm")
    assert running.job.ended().kind == Kind.ABORTED
    running.gone()


@pytest.mark.req("H1")
@pytest.mark.direct
def test_condor_vacate_job_asks_with_the_kill_signal_and_the_job_runs_again(pool: Pool) -> None:
    running = Watched(pool)
    running.job.do("condor_vacate_job")
    running.job.wait(Kind.EVICTED)
    assert running.signals() == ["TERM"]
    running.job.wait(Kind.EXECUTE, count=2)
    running.job.do("condor_rm")
    running.job.wait(Kind.ABORTED)
    running.gone()


@pytest.mark.req("H1")
def test_condor_vacate_job_fast_kills_without_asking(pool: Pool) -> None:
    running = Watched(pool)
    running.job.do("condor_vacate_job", "-fast")
    running.job.wait(Kind.EVICTED)
    running.job.do("condor_rm")
    running.job.wait(Kind.ABORTED)
    running.gone()
    assert running.signals() == []


@pytest.mark.req("H1", "G2")
def test_a_job_that_ignores_its_kill_signal_is_killed_when_its_time_is_up(pool: Pool) -> None:
    script = "#!/bin/sh\ntrap '' TERM\necho up >/home/alice/@NAME@\nwhile :; do sleep 0.1; done\n"
    job = pool.submit("stubborn", script.replace("@NAME@", "stubborn.up"), "job_max_vacate_time = 3")
    eventually("the job runs", (pool.home("alice") / "stubborn.up").exists)
    job.wait(Kind.EXECUTE)
    job.do("condor_vacate_job")
    job.wait(Kind.EVICTED, timeout=30)
    job.do("condor_rm")
    job.wait(Kind.ABORTED)
