"""A hundred jobs in a row on two slots: none lost, none run twice, nothing left."""

from __future__ import annotations

import pytest

from pool.harness import Kind, Pool

COUNT = 100


@pytest.mark.req("H1", "H4", "R5")
@pytest.mark.timeout(400)
def test_a_hundred_jobs_with_files_on_two_slots_all_come_back_right(pool: Pool) -> None:
    pool.put("many.txt", "common input\n")
    script = '#!/bin/sh\ncat many.txt; echo "job $1"; echo "$1" >"many.$1.res"; exit $(($1 % 7))\n'
    job = pool.submit(
        "many",
        script,
        "arguments = $(Process)",
        "transfer_input_files = many.txt",
        "transfer_output_files = many.$(Process).res",
        "output = many.$(Process).out",
        count=COUNT,
    )
    job.wait(Kind.TERMINATED, count=COUNT, timeout=300)
    assert len(job.events(Kind.TERMINATED)) == len(job.events(Kind.EXECUTE)) == COUNT
    ends = {e.proc: e.text for e in job.events(Kind.TERMINATED)}
    for n in range(COUNT):
        assert f"return value {n % 7})" in ends[n], (n, ends[n])
        assert (pool.home("alice") / f"many.{n}.out").read_text() == f"common input\njob {n}\n"
        assert (pool.home("alice") / f"many.{n}.res").read_text() == f"{n}\n"
    assert {e.kind for e in job.events()} <= {
        Kind.SUBMIT,
        Kind.TRANSFER,
        Kind.EXECUTE,
        Kind.IMAGE_SIZE,
        Kind.TERMINATED,
    }
    slots = {line for e in job.events(Kind.EXECUTE) for line in e.text.splitlines() if "SlotName" in line}
    assert len(slots) == 2, slots
    pool.assert_clean()
    ends_well = sum(log.count("EXITING WITH STATUS 0") for log in pool.starter_logs().values())
    assert ends_well >= COUNT


@pytest.mark.req("H4")
@pytest.mark.ours
def test_no_fixed_wait_lies_between_the_last_input_and_the_job(pool: Pool) -> None:
    """With a second's wait there, not one of five jobs can start within a second of its input's arrival."""
    pool.put("stamp.txt", "x")
    job = pool.submit(
        "nowait",
        "#!/bin/sh\ndate +%s.%N; stat -c %.9Z stamp.txt\n",
        "transfer_input_files = stamp.txt",
        "output = nowait.$(Process).out",
        count=5,
    )
    job.wait(Kind.TERMINATED, count=5)
    texts = [(pool.home("alice") / f"nowait.{n}.out").read_text().split() for n in range(5)]
    waits = [float(started) - float(arrived) for started, arrived in texts]
    assert min(waits) < 1.0, waits
