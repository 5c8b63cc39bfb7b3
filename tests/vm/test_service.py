"""Both daemons under systemd: started, crashed, restarted and stopped while jobs run."""

from __future__ import annotations

import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vm.guest import BOXES, CGROUPS, RUN, Guest, ad, cgroup_of, eventually

PROCD, STARTERD = "condor_starter_procd.service", "condor_starterd.service"


class Job:
    """A job of starterd's that waits for a file and exits with 7."""

    def __init__(self, service: Guest, gate: Path) -> None:
        self.service = service
        self.gate = gate
        script = f"while [ ! -e {gate} ]; do sleep 0.1; done; exit 7"
        with service.client() as client:
            self.number = int(client.submit(ad(script, RequestMemory=64).encode())["id"])
        eventually("the job runs", lambda: "sleep 0.1" in str(service.job_processes()), service.journal)

    def process(self) -> int:
        """The pid of its shell, as this machine counts."""
        (shell,) = [p for p in self.service.job_processes() if "while [" in p]
        return int(shell.split()[0])

    def end(self) -> dict[str, Any]:
        """Let it end; its terminal record."""
        self.gate.touch()
        return self.ended()

    def ended(self) -> dict[str, Any]:
        """The terminal record."""
        with self.service.client() as client:

            def done() -> dict[str, Any] | None:
                job = client.wait(self.number, 5)
                return job["outcome"] if job["state"] == "done" else None

            return dict(eventually("the job is done", done, self.service.journal))


@pytest.fixture
def job(service: Guest) -> Iterator[Job]:
    """A running job. Whatever becomes of it, the next test finds none."""
    gate = Path(tempfile.mkdtemp(dir="/srv")) / "gate"
    gate.parent.chmod(0o755)
    yield Job(service, gate)
    gate.touch()
    eventually("the job is gone", lambda: not service.job_processes(), service.journal)
    shutil.rmtree(gate.parent)


def test_systemd_finds_nothing_wrong_with_the_units(guest: Guest) -> None:
    units = [str(p) for p in Path("/etc/systemd/system").glob("condor_starter*")]
    assert len(units) == 4
    assert guest.command("systemd-analyze", "verify", "--man=no", *units) == (0, "", "")


@pytest.mark.req("H6", "X2")
def test_units_are_ready_only_when_they_serve_and_starterd_holds_no_privilege(service: Guest) -> None:
    for unit in (PROCD, STARTERD):
        assert service.show(unit, "Type") == "notify"
        assert service.show(unit, "SubState") == "running"
    status = Path(f"/proc/{service.show(STARTERD, 'MainPID')}/status").read_text().splitlines()
    fields = {line.split(":")[0]: line.split(":")[1].split() for line in status}
    condor = str(pwd.getpwnam("condor").pw_uid)
    assert fields["Uid"] == [condor] * 4
    assert {fields[c][0].strip("0") for c in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")} == {""}
    assert fields["NoNewPrivs"] == ["1"]
    for name in ("api.sock", "procd.sock"):
        assert (RUN / name).is_socket()


@pytest.mark.req("H6", "G1")
def test_a_posted_job_runs_in_the_delegated_group_and_its_exit_status_is_true(
    service: Guest, job: Job
) -> None:
    assert cgroup_of(job.process()).is_relative_to(BOXES)
    assert job.end()["exit_code"] == 7


@pytest.mark.req("G7", "D21")
def test_suspend_freezes_the_cgroup_and_continue_thaws_it(service: Guest, job: Job) -> None:
    box = cgroup_of(job.process())

    def frozen() -> str:
        return next(line for line in (box / "cgroup.events").read_text().splitlines() if "frozen" in line)

    with service.client() as client:
        client.ask(job.number, "suspend")
        eventually("it is frozen", lambda: frozen() == "frozen 1")
        client.ask(job.number, "continue")
        eventually("it is thawed", lambda: frozen() == "frozen 0")
    assert job.end()["exit_code"] == 7


@pytest.mark.req("X3", "X10")
@pytest.mark.parametrize(
    "victims", [(STARTERD,), (PROCD,), (PROCD, STARTERD)], ids=["starterd", "procd", "both"]
)
def test_a_job_survives_a_crash_and_its_exit_status_is_true(
    service: Guest, job: Job, victims: tuple[str, ...]
) -> None:
    before = job.process()
    for unit in victims:
        service.kill_main(unit)
    assert job.process() == before
    service.wait_for_api()
    assert job.end()["exit_code"] == 7
    assert not service.job_processes()


@pytest.mark.req("X3")
def test_a_job_that_ends_while_starterd_is_stopped_is_reported_by_the_next(service: Guest, job: Job) -> None:
    service.systemctl("stop", STARTERD)
    job.gate.touch()
    eventually("the job ends", lambda: not service.job_processes())
    service.systemctl("start", STARTERD)
    service.wait_for_api()
    assert job.ended()["exit_code"] == 7


@pytest.mark.req("X3")
def test_an_upgrade_of_both_daemons_ends_no_job(service: Guest, job: Job) -> None:
    before = job.process()
    service.systemctl("restart", PROCD, STARTERD)
    service.wait_for_api()
    assert job.process() == before
    assert job.end()["exit_code"] == 7


@pytest.mark.req("X3", "G2", "P8")
def test_stop_of_procd_ends_every_job_and_leaves_nothing(service: Guest, job: Job) -> None:
    process = job.process()
    service.systemctl("stop", STARTERD, PROCD)
    service.assert_clean()
    assert not os.path.exists(f"/proc/{process}")
    for unit in (STARTERD, PROCD):
        assert not (CGROUPS / "system.slice" / unit).exists(), "no process of the daemons' own is left"
    assert service.show("condor_starter_boxes.service", "ActiveState") == "inactive"
    assert service.show("condor_starter_boxes.service", "Result") == "success"
    service.systemctl("start", PROCD, STARTERD)
    service.wait_for_api()
    assert job.ended()["exit_code"] != 7
