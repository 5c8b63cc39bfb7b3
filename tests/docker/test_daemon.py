"""Docker jobs by the daemon: an unprivileged starterd in the group of the engine's socket, a real engine."""

from __future__ import annotations

import grp
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from env.docker_house import IMAGE, Engine
from system import daemon_help
from system.daemon_help import Machine, ended, shell, until

UID = 64321  # without an account: membership of the engine's group is all that is needed


class DockerMachine(Machine):
    """A machine whose starterd may talk to an engine."""

    def options(self) -> list[str]:
        return [*super().options(), f"--set=CONDOR_IDS={UID}.{grp.getgrnam('daemon').gr_gid}"]

    def procd_settings(self) -> list[str]:
        return [*super().procd_settings(), f"client={UID}"]


@pytest.fixture
def machine(
    engine: Engine, open_dir: Path, unique: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Machine]:
    monkeypatch.setitem(daemon_help.ENV, "DOCKER_HOST", engine.host)
    found = DockerMachine(open_dir, unique)
    try:
        found.start()
        yield found
    finally:
        found.clean_up()
        assert engine.containers() == []


def docker(script: str, **attributes: object) -> bytes:
    """An ad for a container."""
    return shell(script, WantDocker=True, DockerImage=IMAGE, RequestMemory=64, **attributes)


@pytest.mark.req("D4", "H6")
def test_a_docker_job_by_the_api_tells_its_exit_code_and_its_output(machine: Machine) -> None:
    with machine.client() as client:
        number = client.submit(docker("id -u; echo err >&2; exit 5", Out="named", Iwd="/nowhere"))["id"]
        job = ended(client, number)
        assert (job["outcome"]["how"], job["outcome"]["exit_code"]) == ("exited", 5), job
        assert client.tail(number, "stdout", 0)[0] == b"65534\n"
        assert client.tail(number, "stderr", 0)[0] == b"err\n"


@pytest.mark.req("D18", "X9")
def test_an_image_that_is_not_to_be_had_holds_the_job(machine: Machine) -> None:
    with machine.client() as client:
        number = client.submit(shell("true", WantDocker=True, DockerImage="127.0.0.1:1/none:1"))["id"]
        outcome = ended(client, number)["outcome"]
    assert (outcome["how"], outcome["error"]["code"], outcome["exit_status"]) == ("held", 35, 230)


@pytest.mark.req("D4", "D21")
def test_a_docker_job_is_suspended_continued_and_removed(machine: Machine, engine: Engine) -> None:
    with machine.client() as client:
        number = client.submit(docker("while :; do echo x; sleep 0.05; done"))["id"]
        until(lambda: client.tail(number, "stdout", 0)[1] > 0)
        client.ask(number, "suspend")
        until(lambda: client.job(number)["state"] == "suspended")
        client.ask(number, "continue")
        until(lambda: client.job(number)["state"] == "running")
        client.ask(number, "vacate")
        assert ended(client, number)["outcome"]["how"] == "ended"
    assert machine.boxes() == []


@pytest.mark.req("X3", "D36")
def test_a_docker_job_whose_output_was_lost_with_starterd_fails_by_the_systems_fault(
    machine: Machine, engine: Engine
) -> None:
    """A container's output comes through starterd: what nobody took is not passed off as all there was."""
    with machine.client() as client:
        number = client.submit(docker("echo begin; sleep 3; echo end; exit 6"))["id"]
        until(lambda: client.tail(number, "stdout", 0)[0] == b"begin\n")
    machine.kill_starterd()
    machine.start()
    with machine.client() as client:
        outcome = ended(client, number)["outcome"]
        assert (outcome["how"], outcome["error"]["blame"]) == ("failed", "system"), json.dumps(outcome)
        assert "its output is incomplete" in outcome["error"]["text"]
    assert machine.boxes() == []
