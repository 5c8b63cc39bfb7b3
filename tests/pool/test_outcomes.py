"""What cannot run is held with HTCondor's codes and words, and the slot is free for the next job at once."""

from __future__ import annotations

import re

import pytest

from pool.harness import Job, Kind, Pool

HOG = """#!/usr/bin/python3
import time
blocks = []
for _ in range(60):
    blocks.append(b"x" * 10_000_000)
    time.sleep(0.02)
time.sleep(30)
"""


def held(job: Job, code: int, subcode: int) -> str:
    """The hold reason, after checking the codes in the event log and in the queue."""
    end = job.ended()
    assert end.kind == Kind.HELD, end.text
    assert f"Code {code} Subcode {subcode}" in end.text
    ad = job.ad()
    assert (ad["JobStatus"], ad["HoldReasonCode"], ad["HoldReasonSubCode"]) == (5, code, subcode)
    job.do("condor_rm")
    return str(ad["HoldReason"])


@pytest.mark.req("G4")
@pytest.mark.ours
@pytest.mark.direct
def test_memory_over_the_limit_holds_34_102_with_the_sentence_that_users_know(pool: Pool) -> None:
    reason = held(pool.submit("hog", HOG), 34, 102)
    words = re.search(
        r"Job has gone over cgroup memory limit of (\d+) megabytes\. Last measured usage: (\d+) megabytes\.  "
        r"Consider resubmitting with a higher request_memory\.",
        reason,
    )
    assert words, reason
    limit, usage = int(words[1]), int(words[2])
    assert limit in (64, 128)  # what was asked for, in the startd's quanta
    assert 0.8 * limit <= usage <= limit


@pytest.mark.req("H1", "X9")
@pytest.mark.direct
def test_a_program_that_is_not_there_holds_6_2(exec_pool: Pool) -> None:
    job = exec_pool.submit("nofile", "", "executable = /no/such/prog", "transfer_executable = false")
    assert "Failed to execute '/no/such/prog'" in (reason := held(job, 6, 2))
    assert "errno=2" in reason
    assert "No such file or directory" in reason


@pytest.mark.req("H1", "X9")
def test_an_interpreter_that_is_not_there_holds_6_2(exec_pool: Pool) -> None:
    reason = held(exec_pool.submit("nointerp", "#!/no/such/interpreter\n"), 6, 2)
    assert "Failed to execute" in reason
    assert "/no/such/interpreter" in reason


@pytest.mark.req("H4", "X9")
@pytest.mark.direct
def test_an_input_that_is_not_there_holds_13_2(pool: Pool) -> None:
    job = pool.submit("noinput", "#!/bin/sh\nexit 0\n", "transfer_input_files = nosuchinput.txt")
    assert "nosuchinput.txt" in held(job, 13, 2)
    assert not job.events(Kind.EXECUTE)


@pytest.mark.req("H4", "X9")
@pytest.mark.direct
def test_an_output_that_is_not_there_holds_12_2(pool: Pool) -> None:
    job = pool.submit("nooutput", "#!/bin/sh\nexit 0\n", "transfer_output_files = nosuch.txt")
    reason = held(job, 12, 2)
    assert "nosuch.txt" in reason
    assert "No such file or directory" in reason


@pytest.mark.req("H1")
def test_the_slot_runs_the_next_job_after_each_kind_of_failure(exec_pool: Pool) -> None:
    bad = exec_pool.submit("bad", "", "executable = /no/such/prog", "transfer_executable = false", count=2)
    bad.wait(Kind.HELD, count=2)
    bad.do("condor_rm")
    good = exec_pool.submit("good", "#!/bin/sh\nexit 0\n")
    assert "return value 0" in good.ended(30).text
