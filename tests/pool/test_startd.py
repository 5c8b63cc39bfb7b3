"""What the startd, its operators and their tools see of the starter: abilities, the log, condor_who."""

from __future__ import annotations

import json
import re

import pytest

from pool.harness import Kind, Pool, eventually


@pytest.mark.req("H1")
@pytest.mark.direct
def test_the_startd_takes_the_starters_abilities_into_the_slot_ad(pool: Pool) -> None:
    ads = json.loads(pool.as_user("alice", "condor_status", "-json"))
    slot = next(ad for ad in ads if ad.get("PartitionableSlot"))
    starter = pool.as_root("condor_config_val", "STARTER").strip()
    claimed = [line.split(" = ", 1)[0] for line in pool.as_root(starter, "-classad").splitlines()]
    assert "HasFileTransfer" in claimed  # without it no job with files would be matched
    taken = [name for name in claimed if name not in ("CondorVersion", "IsDaemonCore")]  # the startd's own
    assert [name for name in taken if name not in slot] == []
    abilities = {name for name in taken if name.startswith("Has")}
    assert abilities <= set(slot["StarterAbilityList"].split(","))


@pytest.mark.req("H1")
def test_classad_prints_old_syntax_lines_only_and_exits_0(pool: Pool) -> None:
    starter = pool.as_root("condor_config_val", "STARTER").strip()
    lines = pool.as_root(starter, "-classad").splitlines()
    assert lines
    for line in lines:
        assert re.fullmatch(r"[A-Za-z_]\w* = .+", line), line
        assert len(line) < 1023  # the startd's line buffer
    assert any(line.startswith('CondorVersion = "$CondorVersion: ') for line in lines)
    assert "IsDaemonCore = True" in [line.replace("true", "True") for line in lines]


# In this order, one job's part of StarterLog.<slot>: what condor_who and operators look for.
LINES = (
    r"\*{20,}",
    r"\*\* condor_starter \(CONDOR_STARTER\) STARTING UP",
    r"\*\* .*condor_starter",
    r"\*\* \$CondorVersion: .* \$",
    r"\*\* PID = \d+ RealUID = \d+",
    r"Communicating with shadow <.*>",
    r'Submitting machine is ".*"',
    r"Job {id} set to execute immediately",
    r"Starting a VANILLA universe job with ID: {id}",
    r"IWD: /var/lib/condor/execute/dir_\d+",
    r"Output file: .*_condor_stdout",
    r"Error file: .*_condor_stderr",
    r"Running job as user alice",
    r"About to exec .*",
    r"Create_Process succeeded, pid=\d+",
    r"Process exited, pid=\d+, status=5",
    r"\*{4} condor_starter \(condor_STARTER\) pid \d+ EXITING WITH STATUS 0",
)


@pytest.mark.req("H3")
@pytest.mark.direct
def test_the_starter_log_reads_as_operators_know_it(pool: Pool) -> None:
    job = pool.submit("logged", "#!/bin/sh\nexit 5\n")
    slot = re.search(r"SlotName: (\w+)@", job.wait(Kind.EXECUTE).text)
    assert slot
    assert "return value 5" in job.ended().text
    begin = f"Job {job.cluster}.0 set to execute immediately"
    name = f"StarterLog.{slot[1]}"
    text = eventually("the starter's last line", lambda: _part(pool.log(name), begin), 20)
    at = 0
    for line in LINES:
        prefix = r"^\d\d/\d\d/\d\d \d\d:\d\d:\d\d \(pid:\d+\) "
        pattern = prefix + line.replace("{id}", re.escape(f"{job.cluster}.0")) + "$"
        match = re.compile(pattern, re.M).search(text, at)
        assert match, f"{line!r} is not there, or not in its place:\n{text}"
        at = match.end()


def _part(log: str, marker: str) -> str:
    """The lines of the starter run in which ``marker`` stands, once it is complete; else ""."""
    runs = re.split(r"(?=^.*\*{54}\n.*STARTING UP$)", log, flags=re.M)
    return next((run for run in runs if marker in run and "EXITING WITH STATUS" in run), "")


@pytest.mark.req("H3")
def test_condor_who_finds_the_running_job_by_the_starters_log(pool: Pool) -> None:
    job = pool.submit("who", "#!/bin/sh\nwhile [ ! -e /home/alice/who.go ]; do sleep 0.1; done\n")
    job.wait(Kind.EXECUTE)
    said = eventually("condor_who names the job", lambda: _who(pool, job.cluster), 20)
    pool.put("who.go", "")
    assert "return value 0" in job.ended().text
    assert "alice" in said


def _who(pool: Pool, cluster: int) -> str:
    lines = pool.as_root("condor_who", "-allpids").splitlines()
    return next((line for line in lines if f" {cluster}.0 " in line), "")


BUSY = """#!/usr/bin/python3
import os, time
block = b"x" * 30_000_000
end = time.monotonic() + 1
while time.monotonic() < end: pass
while not os.path.exists("/home/alice/@NAME@.go"): time.sleep(0.1)
"""


@pytest.mark.req("G8", "H4")
def test_memory_of_a_running_job_reaches_the_queue(pool: Pool) -> None:
    job = pool.submit("memory", BUSY.replace("@NAME@", "memory"))
    job.wait(Kind.EXECUTE)
    job.wait(Kind.IMAGE_SIZE)
    eventually("its memory is in the queue", lambda: _kib(job.ad()) >= 29_000, 40, 0.5)
    assert _kib(job.ad()) < 128 << 10
    pool.put("memory.go", "")
    assert "return value 0" in job.ended().text


def _kib(ad: dict[str, object]) -> int:
    return int(str(ad.get("ResidentSetSize_RAW", 0)))


@pytest.mark.req("G8", "D24")
@pytest.mark.ours
def test_cpu_time_of_a_finished_job_is_true(pool: Pool) -> None:
    pool.put("cpu.go", "")
    job = pool.submit("cpu", BUSY.replace("@NAME@", "cpu"))
    assert "return value 0" in job.ended().text
    ad = job.ad()
    assert 0.5 <= ad["RemoteUserCpu"] + ad["RemoteSysCpu"] <= 5
