"""Docker jobs through the daemon: its API, and what becomes of them when starterd, procd or both die."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from condor_starter.cli.client import Client
from env.docker_house import IMAGE, Engine
from system import daemon_help
from system.daemon_help import Machine, ended, shell, until

TICK = "n=0; while :; do n=$((n+1)); echo $n; usleep 20000; done"


@pytest.fixture
def machine(open_dir: Path, unique: str, engine: Engine) -> Iterator[Machine]:
    with daemon_help.machine(open_dir, unique) as found:
        found.start(f"--set=DOCKER_HOST={engine.host}")
        yield found
    for path in Path("/sys/fs/cgroup").glob(f"*/{unique}"):
        path.rmdir()  # the engine makes our base in hierarchies that procd does not use
    assert engine.containers() == []


@pytest.fixture
def client(machine: Machine) -> Iterator[Client]:
    found = machine.client()
    yield found
    found.close()


def job(script: str, **attributes: object) -> bytes:
    return shell(script, WantDocker=True, DockerImage=IMAGE, **attributes)


def running(client: Client, text: bytes) -> int:
    """Submit; the job's number once it has written something."""
    number = int(client.submit(text)["id"])
    until(lambda: client.tail(number, "stdout", 0)[1] > 0)
    return number


def restart(machine: Machine, engine: Engine) -> None:
    machine.start(f"--set=DOCKER_HOST={engine.host}")


@pytest.mark.req("D3", "D4", "D13", "H6")
def test_a_docker_job_by_the_api(client: Client) -> None:
    done = ended(client, client.submit(job("echo hello; echo oops >&2; id -u; exit 7"))["id"])
    assert (done["outcome"]["how"], done["outcome"]["exit_code"]) == ("exited", 7)
    assert client.tail(done["id"], "stdout", 0)[0] == b"hello\n65534\n"
    assert client.tail(done["id"], "stderr", 0)[0] == b"oops\n"


@pytest.mark.req("D18")
def test_an_invalid_image_is_held_with_35(client: Client) -> None:
    text = shell("true", WantDocker=True, DockerImage="127.0.0.1:9/no/such:1")
    outcome = ended(client, client.submit(text)["id"])["outcome"]
    assert outcome["error"]["code"] == 35
    assert "connection refused" in outcome["error"]["text"]


@pytest.mark.req("D21", "D4")
def test_suspend_continue_and_remove(client: Client) -> None:
    number = running(client, job(TICK))
    client.ask(number, "suspend")
    until(lambda: client.job(number)["state"] == "suspended")
    time.sleep(0.3)  # what was in the stream already arrives
    before = client.tail(number, "stdout", 0)[1]
    time.sleep(0.5)
    assert client.tail(number, "stdout", 0)[1] == before
    client.ask(number, "continue")
    until(lambda: client.tail(number, "stdout", 0)[1] > before)
    client.ask(number, "remove", "enough")
    assert ended(client, number)["outcome"]["ended_by"] == {"ask": "remove", "reason": "enough"}


@pytest.mark.req("D4")
def test_several_docker_jobs_at_once(client: Client) -> None:
    numbers = [client.submit(job(f"echo {n}; sleep 1; exit {n}"))["id"] for n in range(5)]
    for n, number in enumerate(numbers):
        assert ended(client, number)["outcome"]["exit_code"] == n
        assert client.tail(number, "stdout", 0)[0] == f"{n}\n".encode()


@pytest.mark.req("X3")
def test_a_docker_job_survives_the_death_of_procd(machine: Machine, client: Client, engine: Engine) -> None:
    number = running(client, job(TICK))
    machine.kill_procd()
    machine.start_procd()
    seen = client.tail(number, "stdout", 0)[1]
    until(lambda: client.tail(number, "stdout", 0)[1] > seen)
    client.ask(number, "remove", "enough")
    assert ended(client, number)["outcome"]["how"] == "ended"
    assert engine.containers() == []


@pytest.mark.req("X3", "D14")
@pytest.mark.parametrize("both", [False, True])
def test_a_docker_job_whose_starterd_died_is_told_as_the_systems_fault(
    machine: Machine, client: Client, engine: Engine, both: bool
) -> None:
    number = running(client, job(TICK))
    machine.kill_starterd()
    if both:
        machine.kill_procd()
        machine.start_procd()
    restart(machine, engine)
    with machine.client() as later:
        outcome = ended(later, number)["outcome"]
        assert outcome["error"]["code"] == 1021
        assert "its output is incomplete" in outcome["error"]["text"]
        assert len(machine.terminal_records(number)) == 1
        assert ended(later, later.submit(job("exit 3"))["id"])["outcome"]["exit_code"] == 3
    assert engine.containers() == []
    assert machine.boxes() == []
    assert os.listdir(machine.execute) == []
