"""`starterctl run` on pure cgroup v2: limits that are in force, and how a job ends that breaks one."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from vm.guest import BIN, CGROUPS, EXECUTE, Guest, ad, cgroup_of, eventually, lines

MIB = 1 << 20


@pytest.mark.req("P7")
def test_this_machine_is_what_these_tests_are_about() -> None:
    assert Path("/proc/1/comm").read_text() == "systemd\n"
    assert "memory" in (CGROUPS / "cgroup.controllers").read_text().split()
    assert not [line for line in lines("/proc/self/mounts") if " cgroup " in line]


@pytest.mark.req("G1", "G3", "G6", "X6", "P7")
def test_memory_cpu_and_process_limits_are_in_force(guest: Guest, tmp_path: Path) -> None:
    job = tmp_path / "job.ad"
    job.write_text(ad("touch up; sleep 1000", RequestMemory=64, RequestCpus=2))
    running = subprocess.Popen([BIN / "starterctl", "run", "--log", "-", str(job)], stderr=subprocess.PIPE)
    try:
        (sleep,) = eventually("the job runs", lambda: [p for p in guest.job_processes() if "sleep 1000" in p])
        box = cgroup_of(int(sleep.split()[0]))
        limits = {name: (box / name).read_text().split() for name in ("memory.max", "cpu.weight", "pids.max")}
    finally:
        running.terminate()
        _, log = running.communicate(timeout=60)
    assert limits["memory.max"] == [str(64 * MIB)], log
    assert limits["cpu.weight"] == ["200"], log
    assert limits["pids.max"][0].isdigit(), log
    assert box != cgroup_of(1)
    assert not box.exists()


@pytest.mark.req("G4", "X9")
def test_memory_over_the_limit_holds_the_job_with_code_34_and_102(guest: Guest, tmp_path: Path) -> None:
    hog = "exec /usr/bin/python3 -S -c 'x = bytearray(200 << 20)'"
    output = tmp_path / "out.ad"
    ran = guest.command("starterctl", "run", "--output-ad", str(output), "-", stdin=ad(hog, RequestMemory=48))
    assert ran.status == 230, ran
    assert "code 34, subcode 102" in ran.err
    final = output.read_text()
    assert "HoldReasonCode = 34" in final
    assert "HoldReasonSubCode = 102" in final


@pytest.mark.req("G2", "P1", "N1", "N3")
def test_a_daemon_that_leaves_session_and_environment_behind_dies_with_its_job(guest: Guest) -> None:
    script = "(setsid env -i /bin/sleep 1000 &) & sleep 0.3; echo private >/tmp/file; exit 5"
    ran = guest.command("starterctl", "run", "-", stdin=ad(script))
    assert ran.status == 5, ran
    assert not guest.job_processes()
    assert not Path("/tmp/file").exists()
    assert not list(EXECUTE.glob("*"))


@pytest.mark.req("X6", "P1")
def test_no_job_has_more_processes_than_its_limit(guest: Guest) -> None:
    bomb = ad("for i in $(seq 50); do sleep 3 & done")
    ran = guest.command("starterctl", "run", "--knob", "STARTER_JOB_PIDS=12", "-", stdin=bomb)
    assert ran.status == 2, ran  # the shell's own: it could not fork
    assert "Cannot fork" in ran.err
