"""Nothing of a job exists before procd knows its init and has put it behind its limits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: namespaces and cgroups")


@pytest.fixture
def place() -> Iterator[Path]:
    base = Path(f"/var/lib/barrier-test-{os.getpid()}")
    (base / "execute").mkdir(parents=True)
    yield base
    for path in sorted(base.rglob("*"), key=lambda p: -len(p.parts)):
        path.rmdir() if path.is_dir() else path.unlink()
    base.rmdir()


@pytest.mark.req("N2", "G2")
@pytest.mark.parametrize("step", ["identity", "exec"])
def test_the_init_is_recorded_and_limited_before_the_job_exists(place: Path, step: str) -> None:
    box = f"barrier-{step}-{os.getpid()}"
    script = Path(__file__).with_name("one_box.py")
    words = [sys.executable, str(script), str(place / "execute"), str(place / "run"), box, step]
    client = subprocess.Popen(words)
    marker = place / "run" / "paused"
    try:
        until = time.monotonic() + 20
        while not (marker.exists() and marker.read_text()):
            assert time.monotonic() < until, "never came to the step"
            time.sleep(0.01)
        facts: dict[str, object] = {}
        for line in (place / "run" / "ledger" / box).read_text().splitlines():
            facts |= json.loads(line)
        init = str(facts["pid"])
        directories = facts["dirs"]
        assert isinstance(directories, dict)
        for directory in map(Path, directories.values()):
            assert (directory / "cgroup.procs").read_text().split() == [init]
        limits = [
            d / n for d in map(Path, directories.values()) for n in ("memory.limit_in_bytes", "memory.max")
        ]
        assert [p.read_text().strip() for p in limits if p.exists()] == [str(64 << 20)]
        assert Path(f"/proc/{init}/task/{init}/children").read_text() == ""
    finally:
        marker.unlink(missing_ok=True)
        assert client.wait(30) == 0
