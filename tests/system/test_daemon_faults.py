"""Jobs survive the death of starterd, of procd, and of both: real processes, SIGKILL, one end for each."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from condor_starter.cli.client import ApiFailure
from system import daemon_help
from system.daemon_help import PATIENCE, Machine, ad, alive, ended, shell, until


@pytest.fixture
def machine(open_dir: Path, unique: str) -> Iterator[Machine]:
    with daemon_help.machine(open_dir, unique) as found:
        found.start()
        yield found


BURN = "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done"
UNTIL_TOLD = f"echo begin; {BURN}; while [ ! -e go ]; do sleep 0.02; done; {BURN}; echo end; exit 42"


class Told:
    """A job that burns some cpu, waits for a file in its Iwd, burns as much again and exits 42."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.directory = machine.home / "told"
        self.directory.mkdir()
        self.directory.chmod(0o1777)
        with machine.client() as client:
            self.number = client.submit(shell(UNTIL_TOLD, Iwd=str(self.directory)))["id"]
            until(lambda: client.tail(self.number, "stdout", 0)[0] == b"begin\n")

    def go(self) -> None:
        (self.directory / "go").touch()

    def check_end(self) -> None:
        """True exit status, usage of the whole run, whole output, one terminal record, nothing left."""
        with self.machine.client() as client:
            outcome = ended(client, self.number)["outcome"]
            assert outcome["error"] is None
            assert (outcome["how"], outcome["exit_code"]) == ("exited", 42)
            assert client.tail(self.number, "stdout", 0)[0] == b"begin\nend\n"
        cpu = outcome["usage"]["user_usec"] + outcome["usage"]["system_usec"]
        assert cpu > 0.5 * self.alone(), "the usage is not that of the whole run"
        assert len(self.machine.terminal_records(self.number)) == 1
        assert self.machine.boxes() == []
        assert os.listdir(self.machine.execute) == []

    def alone(self) -> float:
        """What the burning costs outside of any box, in microseconds."""
        before = os.times()
        subprocess.run(["/bin/sh", "-c", f"{BURN}; {BURN}"], check=True)
        after = os.times()
        return 1e6 * (
            after.children_user + after.children_system - before.children_user - before.children_system
        )


@pytest.mark.req("X3")
def test_a_job_survives_the_death_of_starterd_with_its_status_and_usage(machine: Machine) -> None:
    job = Told(machine)
    machine.kill_starterd()
    machine.start()
    with machine.client() as client:
        assert client.job(job.number)["state"] == "running"
        # it is listed as soon as its journal is read; its streams follow once procd has answered
        until(lambda: client.tail(job.number, "stdout", 0)[0] == b"begin\n")
    job.go()
    job.check_end()


@pytest.mark.req("X3")
def test_a_job_that_ends_while_there_is_no_starterd_is_told_by_the_next(machine: Machine) -> None:
    job = Told(machine)
    machine.kill_starterd()
    job.go()
    time.sleep(1.0)
    machine.start()
    job.check_end()


@pytest.mark.req("X3")
def test_a_job_survives_the_death_of_procd_with_its_status_and_usage(machine: Machine) -> None:
    job = Told(machine)
    machine.kill_procd()
    with machine.client() as client:
        until(lambda: not daemon_help.healthy(client))
        machine.start_procd()
        until(lambda: daemon_help.healthy(client))
    job.go()
    job.check_end()


@pytest.mark.req("X3")
def test_a_job_that_ends_while_there_is_no_procd_is_told_in_the_end(machine: Machine) -> None:
    job = Told(machine)
    machine.kill_procd()
    job.go()
    time.sleep(1.0)
    machine.start_procd()
    job.check_end()


@pytest.mark.req("X3")
def test_a_job_survives_the_death_of_both(machine: Machine) -> None:
    job = Told(machine)
    machine.kill_starterd()
    machine.kill_procd()
    machine.start_procd()
    machine.start()
    job.go()
    job.check_end()


@pytest.mark.req("X3")
def test_procd_may_die_again_and_again(machine: Machine) -> None:
    job = Told(machine)
    for _ in range(3):
        machine.kill_procd()
        machine.start_procd()
    job.go()
    job.check_end()


@pytest.mark.req("X3", "G7")
def test_a_suspended_job_is_still_suspended_after_a_restart_and_can_be_continued(machine: Machine) -> None:
    job = Told(machine)
    with machine.client() as client:
        client.ask(job.number, "suspend")
        until(lambda: client.job(job.number)["state"] == "suspended")
    machine.kill_starterd()
    machine.start()
    job.go()
    with machine.client() as client:
        until(lambda: client.job(job.number)["state"] == "suspended")
        time.sleep(0.3)
        assert client.job(job.number)["state"] == "suspended"
        client.ask(job.number, "continue")
    job.check_end()


@pytest.mark.req("X3")
def test_an_adopted_job_can_be_removed(machine: Machine) -> None:
    job = Told(machine)
    machine.kill_starterd()
    machine.start()
    with machine.client() as client:
        client.ask(job.number, "remove")
        assert ended(client, job.number)["outcome"]["ended_by"]["ask"] == "remove"
    assert machine.boxes() == []


@pytest.mark.req("X3")
def test_a_job_that_never_ran_runs_with_the_next_starterd(open_dir: Path, unique: str) -> None:
    with daemon_help.machine(open_dir, unique) as machine:
        machine.start("--set=STARTER_MAX_RUNNING=1")
        job = Told(machine)
        with machine.client() as client:
            waiting = client.submit(shell("exit 3"))["id"]
            assert client.job(waiting)["state"] == "queued"
        machine.kill_starterd()
        machine.start()
        with machine.client() as client:
            assert ended(client, waiting)["outcome"]["exit_status"] == 3
        job.go()
        job.check_end()


@pytest.mark.req("H6")
def test_a_job_that_waits_can_be_removed(open_dir: Path, unique: str) -> None:
    with daemon_help.machine(open_dir, unique) as machine:
        machine.start("--set=STARTER_MAX_RUNNING=1")
        with machine.client() as client:
            first, second, third = (client.submit(shell(f"sleep {s}"))["id"] for s in (60, 60, 0))
            client.ask(second, "remove", "not wanted")
            outcome = ended(client, second)["outcome"]
            assert (outcome["how"], outcome["ended_by"]["reason"]) == ("ended", "not wanted")
            client.ask(first, "remove")
            assert ended(client, third)["outcome"]["how"] == "exited"
            assert client.job(second)["outcome"] == outcome


@pytest.mark.req("H6", "P1")
def test_of_ended_jobs_the_oldest_are_forgotten(open_dir: Path, unique: str) -> None:
    with daemon_help.machine(open_dir, unique) as machine:
        machine.start("--set=STARTER_KEEP_JOBS=3")
        with machine.client() as client:
            numbers = [ended(client, client.submit(ad("/bin/true"))["id"])["id"] for _ in range(5)]
            until(lambda: [j["id"] for j in client.jobs()] == numbers[2:])
        assert sorted(map(int, os.listdir(machine.state / "jobs"))) == numbers[2:]


@pytest.mark.req("X3")
def test_a_job_whose_box_is_lost_with_its_starter_fails_by_the_systems_fault(machine: Machine) -> None:
    job = Told(machine)
    machine.kill_starterd()
    machine.clean_up()  # procd's boxes are destroyed, as by a reboot
    machine.start_procd()
    machine.start()
    with machine.client() as client:
        outcome = ended(client, job.number)["outcome"]
    assert (outcome["how"], outcome["exit_status"], outcome["error"]["blame"]) == ("failed", 231, "system")


@pytest.mark.req("X3", "X10")
@pytest.mark.parametrize("victim", ["starterd", "procd", "both"])
def test_whenever_the_daemons_are_killed_each_job_has_one_true_end(machine: Machine, victim: str) -> None:
    """Jobs come all the time while the daemons die at random moments, so at every stage of some job."""
    dice = random.Random(victim)
    wanted: dict[int, int] = {}
    for _ in range(6):
        with machine.client() as client:
            for i in range(8):
                wanted[client.submit(shell(f"sleep 0.0{dice.randrange(10)}; exit {i}"))["id"]] = i
        time.sleep(dice.random() * 0.08)
        if victim != "procd":
            machine.kill_starterd()
        if victim != "starterd":
            machine.kill_procd()
            machine.start_procd()
        if victim != "procd":
            machine.start()
    with machine.client() as client:
        for number, status in wanted.items():
            job = ended(client, number)
            assert job["outcome"]["exit_status"] == status, (job["outcome"], client.log(number))
            assert len(machine.terminal_records(number)) == 1
    assert machine.boxes() == []
    assert os.listdir(machine.execute) == []


@pytest.mark.req("X3", "X10", "N2")
@pytest.mark.parametrize("step", "record clone cgroup own identity cwd stdio exec run".split())
def test_a_job_whose_procd_dies_while_it_builds_the_box_runs_once(
    open_dir: Path, unique: str, step: str
) -> None:
    """Either its init goes on without procd, or nothing of the job ran and it begins anew."""
    with daemon_help.machine(open_dir, unique) as machine:
        machine.start_procd(f"pause_at={step}")
        machine.start()
        ran, marker = machine.home / "ran", machine.run / "paused"
        with machine.client() as client:
            number = client.submit(shell(f"echo once >> {ran}; exit 3"))["id"]
            until(marker.read_text)
            machine.kill_procd()
            machine.start_procd()
            marker.unlink()
            job = ended(client, number)
            assert (job["outcome"]["how"], job["outcome"]["exit_code"]) == ("exited", 3), client.log(number)
        assert ran.read_text() == "once\n"
        assert len(machine.terminal_records(number)) == 1
        assert machine.boxes() == []
        assert os.listdir(machine.execute) == []


# -- polite ends ---------------------------------------------------------------------------------------


@pytest.mark.req("X3")
def test_sigterm_leaves_running_jobs_to_the_next_starterd(machine: Machine) -> None:
    job = Told(machine)
    assert machine.kill_starterd(signal.SIGTERM) == 0
    machine.start()
    job.go()
    job.check_end()


@pytest.mark.req("H6")
def test_sigquit_ends_every_job_first(machine: Machine) -> None:
    job = Told(machine)
    assert machine.kill_starterd(signal.SIGQUIT) == 0
    record = machine.terminal_records(job.number)[0]
    assert record["ended_by"]["ask"] == "vacate-fast"
    assert machine.boxes() == []


@pytest.mark.req("H6")
def test_a_draining_starter_takes_no_more_jobs_and_ends_with_the_last(machine: Machine) -> None:
    job = Told(machine)
    with machine.client() as client:
        client.drain()
        with pytest.raises(ApiFailure) as refused:
            client.submit(ad("/bin/true"))
        assert refused.value.status == 503
    assert machine.starterd and machine.starterd.poll() is None
    job.go()
    assert machine.starterd.wait(PATIENCE) == 0
    assert machine.terminal_records(job.number)[0]["exit_code"] == 42


@pytest.mark.req("X3")
def test_a_second_starterd_does_not_take_over_a_living_ones_sockets(machine: Machine) -> None:
    argv = [sys.executable, "-c", daemon_help.STARTERD, "-f", "--procd=wait", *machine.options()]
    done = subprocess.run(argv, env=daemon_help.ENV, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1
    assert "another condor_starterd" in done.stderr
    with machine.client() as client:
        assert ended(client, client.submit(ad("/bin/true"))["id"])["outcome"]["exit_status"] == 0


@pytest.mark.req("H6", "X2")
def test_started_by_hand_it_goes_into_the_background_and_starts_its_procd(
    open_dir: Path, unique: str
) -> None:
    machine = Machine(open_dir, unique)
    argv = [sys.executable, "-c", daemon_help.STARTERD, *machine.options()]
    argv += [f"--procd-set=base_cgroup={unique}", "--procd-set=allow_users=nobody"]
    done = subprocess.run(argv, env=daemon_help.ENV, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    with machine.client() as client:
        pid = json.loads(client.get("/v1/health"))["pid"]
        procd = int(done.stderr.rsplit("pid ", 1)[1])
        try:
            assert ended(client, client.submit(ad("/bin/true"))["id"])["outcome"]["exit_status"] == 0
            assert (open_dir / "log" / "StarterdLog").exists()
        finally:
            os.kill(pid, signal.SIGQUIT)
            until(lambda: not alive(pid))
            os.kill(procd, signal.SIGTERM)
            until(lambda: not alive(procd))


@pytest.mark.req("X9")
def test_without_a_procd_it_says_so_and_ends(open_dir: Path, unique: str) -> None:
    machine = Machine(open_dir, unique)
    argv = [sys.executable, "-c", daemon_help.STARTERD, "-f", "--procd=wait", "--procd-seconds=0.3"]
    done = subprocess.run([*argv, *machine.options()], env=daemon_help.ENV, capture_output=True, text=True)
    assert done.returncode == 1
    assert "No condor_starter_procd" in done.stderr
    shutil.rmtree(machine.state)
