"""The box that a pool's job runs in, as the job itself reports it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pool.harness import Kind, Pool, eventually

REPORT = """#!/bin/sh
echo pid $$
echo processes $(ls /proc | grep -c '^[0-9]')
echo tmp $(ls -A /tmp | wc -l) vartmp $(ls -A /var/tmp | wc -l) shm $(ls -A /dev/shm | wc -l)
echo hidden >/tmp/hidden; echo hidden >/var/tmp/hidden
for n in pid mnt ipc uts cgroup; do echo ns-$n $(readlink /proc/self/ns/$n); done
echo caps $(awk '/^CapEff/ { print $2 }' /proc/self/status)
echo nnp $(awk '/^NoNewPrivs/ { print $2 }' /proc/self/status)
sed 's/^/cgroup /' /proc/self/cgroup
touch /home/alice/@NAME@.here
while [ ! -e /home/alice/@NAME@.go ]; do sleep 0.1; done
"""


@pytest.mark.req("H1", "N1", "N3", "N10", "G1", "X7")
@pytest.mark.ours
@pytest.mark.direct
def test_a_pool_job_runs_in_our_cgroup_and_namespace_box(pool: Pool) -> None:
    (pool.root / "tmp/not-for-jobs").write_text("x")
    job = pool.submit("report", REPORT.replace("@NAME@", "report"))
    job.wait(Kind.EXECUTE)
    eventually("the job is in its cgroups, one by one", lambda: _kinds(pool) == {"memory", "processes"})
    pool.put("report.go", "")
    assert "return value 0" in job.ended().text
    said = dict(line.split(" ", 1) for line in job.output().splitlines() if not line.startswith("cgroup "))
    assert int(said["pid"]) < 10
    assert int(said["processes"]) < 10  # a /proc of its own
    assert said["tmp"] == "0 vartmp 0 shm 0"
    assert not (pool.root / "tmp/hidden").exists()
    for name in ("pid", "mnt", "ipc", "uts", "cgroup"):
        assert said[f"ns-{name}"] != (pool.root / f"proc/1/ns/{name}").readlink().name, name
    assert int(said["caps"], 16) == 0
    assert said["nnp"] == "1"


def _kinds(pool: Pool) -> set[str]:
    """What the cgroups with processes in them are for."""
    groups = [str(g) for g in _groups_with_processes(pool)]
    memory = {"memory" for g in groups if "/memory/" in g}
    return memory | {"processes" for g in groups if "/pids/" in g or "/unified/" in g}


def _groups_with_processes(pool: Pool) -> list[Path]:
    return [g for g in pool.cgroups() if (g / "cgroup.procs").read_text().split()]


@pytest.mark.req("G1", "G3", "G6")
@pytest.mark.ours
def test_the_jobs_cgroup_has_the_slots_limits_and_goes_with_the_job(pool: Pool) -> None:
    job = pool.submit("limits", REPORT.replace("@NAME@", "limits"), "request_cpus = 1")
    job.wait(Kind.EXECUTE)
    memory = _value(pool, "memory.limit_in_bytes", "memory.max")
    cpu = _value(pool, "cpu.shares", "cpu.weight")
    pool.put("limits.go", "")
    assert "return value 0" in job.ended().text
    slot_memory = int(job.ad()["MemoryProvisioned"])
    assert int(memory) == slot_memory << 20
    assert int(cpu) in (100, 10)  # 100 x cpus as v1 shares; the same part of v2's default weight
    pool.assert_clean()
    assert pool.cgroups() == []


def _value(pool: Pool, *names: str) -> str:
    """The content of the deepest file of one of these names below the pool's base group."""
    files: list[Path] = [g / n for g in pool.cgroups() for n in names if (g / n).exists()]
    assert files, f"none of {names} below {pool.group}"
    return max(files, key=lambda f: len(f.parts)).read_text().strip()


@pytest.mark.req("P3", "N1")
@pytest.mark.ours
def test_jobs_of_two_slots_do_not_see_each_other(pool: Pool) -> None:
    seen = "ps -eo args | grep -c '[s]leep 3'"  # its own: a child of a shell may not be one yet
    script = f"#!/bin/sh\nsleep 3 & until [ $({seen}) -gt 0 ]; do sleep 0.1; done; sleep 0.5; {seen}; wait\n"
    job = pool.submit("apart", script, "output = apart.$(Process).out", count=2)
    job.wait(Kind.TERMINATED, count=2)
    counts = [(pool.home("alice") / f"apart.{n}.out").read_text() for n in (0, 1)]
    assert counts == ["1\n", "1\n"]
