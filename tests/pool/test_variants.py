"""The same job under pools that are configured otherwise."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from pool.harness import Kind, Pool, Starter

STARTER = Starter(os.environ.get("POOL_STARTER") or Starter.DAEMON)

STATIC = """
SLOT_TYPE_1 = cpus=1, memory=512, disk=20%
SLOT_TYPE_1_PARTITIONABLE = false
NUM_SLOTS_TYPE_1 = 2
"""

VARIANTS = {
    "static slots": STATIC,
    "no shared port": "USE_SHARED_PORT = false\nCOLLECTOR_HOST = 127.0.0.1:$(SHARED_PORT_PORT)\n",
    "no encryption asked for": "SEC_DEFAULT_ENCRYPTION = NEVER\nSEC_DEFAULT_INTEGRITY = NEVER\n",
    "no private tmp": "MOUNT_UNDER_SCRATCH =\n",
}


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> Iterator[Pool]:
    """A pool of its own for one test."""
    with Pool(STARTER, config=VARIANTS[request.param]) as pool:
        yield pool
        pool.forget_jobs()
        pool.assert_clean()


@pytest.mark.req("H1", "H2", "H4")
def test_a_job_with_files_comes_back_right_and_one_can_be_removed(variant: Pool) -> None:
    variant.put("data.txt", "data\n")
    lines = ("transfer_input_files = data.txt", "transfer_output_files = back.txt")
    job = variant.submit("variant", "#!/bin/sh\ncat data.txt >back.txt; pwd; exit 6\n", *lines)
    assert "return value 6" in job.ended().text
    assert (variant.home("alice") / "back.txt").read_text() == "data\n"
    assert job.output().startswith("/var/lib/condor/execute/dir_")
    job = variant.submit("removed", "#!/bin/sh\nsleep 600\n")
    job.wait(Kind.EXECUTE)
    job.do("condor_rm")
    assert job.ended().kind == Kind.ABORTED
