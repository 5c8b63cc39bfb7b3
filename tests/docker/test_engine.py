"""The engine itself: found or not and why, stopped, killed, hung, and talking nonsense."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from condor_starter.engines.docker import DockerEngine
from condor_starter.isolation.docker import EngineFacts
from condor_starter.job import Blame, Hold, JobError
from condor_starter.knobs import load
from env.docker_house import IMAGE, Body, Engine, House, run_in_house

WithHouse = Callable[[Body], None]


def probe(host: str) -> EngineFacts:
    """What a probe of ``host`` tells."""

    async def main() -> EngineFacts:
        engine = DockerEngine(host)
        try:
            return await engine.probe()
        finally:
            await engine.close()

    return asyncio.run(main())


def marked(marker: str) -> list[int]:
    """Processes of the whole machine with ``marker`` among their arguments."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if marker.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.req("D1", "D2")
def test_a_real_engine_is_found_with_its_version(engine: Engine) -> None:
    facts = probe(engine.host)
    assert facts.usable
    assert facts.version == engine.client("version", "-f", "{{.Server.Version}}")
    assert facts.build == engine.client("version", "-f", "{{.Server.GitCommit}}")
    assert facts.takes_our_cgroup


@pytest.mark.req("D1")
def test_the_engine_is_looked_for_where_the_knob_or_the_environment_says() -> None:
    knobs = load(environ={})
    assert DockerEngine.find(knobs, {}).host == "unix:///var/run/docker.sock"
    assert DockerEngine.find(knobs, {"DOCKER_HOST": "unix:///a"}).host == "unix:///a"
    assert (
        DockerEngine.find(knobs.with_({"DOCKER_HOST": "unix:///b"}), {"DOCKER_HOST": "unix:///a"}).host
        == "unix:///b"
    )


@pytest.mark.req("D2")
def test_the_reason_why_there_is_no_engine_names_the_thing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "No such file or directory" in probe(f"unix://{tmp_path}/none").reason
    assert "Connection refused" in probe(f"unix://{tmp_path}/file").reason
    assert "only an engine of this machine" in probe("tcp://192.0.2.1:2375").reason
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(f"{tmp_path}/dead")
    assert "Connection refused" in probe(f"unix://{tmp_path}/dead").reason


@pytest.mark.req("D2")
def test_without_membership_of_the_sockets_group_the_reason_says_so(engine: Engine) -> None:
    code = (
        "import asyncio, os, sys; os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "from condor_starter.engines.docker import DockerEngine\n"
        "print(asyncio.run(DockerEngine(sys.argv[1]).probe()).reason)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, engine.host], stdout=subprocess.PIPE, text=True, timeout=60, check=True
    )
    assert "permission denied for uid 65534" in done.stdout


@pytest.mark.req("D1")
def test_a_machine_without_an_engine_does_not_pay_for_the_package() -> None:
    code = (
        "import asyncio, sys\n"
        "from condor_starter.engines.docker import DockerEngine\n"
        "asyncio.run(DockerEngine('unix:///nowhere').probe())\n"
        "print('docker' in sys.modules, 'requests' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=60, check=True
    )
    assert done.stdout == "False False\n"


ANSWERS = {
    "nothing": b"",
    "no http": b"\0\1\2\3" * 100,
    "cut head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "cut body": b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"ApiVersion":',
    "no json": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
    "a list": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n[]",
    "other keys": b'HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\n{"a": ""}',
    "old": b'HTTP/1.1 200 OK\r\nContent-Length: 22\r\nConnection: close\r\n\r\n{"ApiVersion": "1.10"}',
    "error": b"HTTP/1.1 500 Oops\r\nContent-Length: 4\r\nConnection: close\r\n\r\noops",
    "error list": b"HTTP/1.1 500 Oops\r\nContent-Length: 2\r\nConnection: close\r\n\r\n[]",
    "other types": b'HTTP/1.1 200 OK\r\nContent-Length: 17\r\nConnection: close\r\n\r\n{"ApiVersion": 3}',
}


@pytest.fixture
def liar(tmp_path: Path) -> Iterator[Callable[[bytes], str]]:
    """Starts a socket that answers each request with the same bytes; returns its address."""
    servers: list[socket.socket] = []

    def answer(server: socket.socket, data: bytes) -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            with client, contextlib.suppress(OSError):
                client.recv(65536)
                client.sendall(data)

    def start(data: bytes) -> str:
        server = socket.socket(socket.AF_UNIX)
        server.bind(f"{tmp_path}/liar")
        server.listen()
        servers.append(server)
        threading.Thread(target=answer, args=(server, data), daemon=True).start()
        return f"unix://{tmp_path}/liar"

    yield start
    for server in servers:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


@pytest.mark.req("D36")
@pytest.mark.parametrize("data", ANSWERS.values(), ids=ANSWERS)
def test_whatever_is_no_engine_is_a_reason_not_a_crash(liar: Callable[[bytes], str], data: bytes) -> None:
    host = liar(data)
    facts = probe(host)
    assert not facts.usable
    assert facts.reason

    async def job() -> None:
        engine = DockerEngine(host)
        try:
            with pytest.raises(JobError) as caught:
                await engine.need_image(IMAGE)
            assert (caught.value.holds, caught.value.blame) == (False, Blame.SYSTEM)
        finally:
            await engine.close()

    asyncio.run(job())


# -- faults during a run ------------------------------------------------------------------------------


async def lost(h: House, marker: str, hurt: Callable[[], None]) -> JobError:
    """The outcome of a running job whose engine is hurt."""
    job = await h.job("sh", "-c", f"echo begun; sleep {marker}; echo not reached; sleep 60")
    try:
        await job.runner.start()
        await job.until("_condor_stdout", b"begun")
        wait = asyncio.create_task(job.runner.wait())
        await asyncio.sleep(0.2)
        await asyncio.to_thread(hurt)
        with pytest.raises(JobError) as caught:
            await asyncio.wait_for(wait, 60)
        assert marked(marker) == []
        return caught.value
    finally:
        await job.close()


@pytest.mark.req("D36")
def test_an_engine_that_is_stopped_requeues_its_jobs(own_engine: Engine) -> None:
    async def body(h: House) -> None:
        def stop() -> None:
            os.kill(own_engine.pid(), signal.SIGTERM)
            own_engine.wait_gone()

        error = await lost(h, "98771", stop)
        assert (error.code, error.holds, error.blame) == (Hold.CONTAINER_ERROR, False, Blame.SYSTEM)

    run_in_house(own_engine, body)


@pytest.mark.req("D36")
def test_an_engine_that_is_killed_requeues_its_jobs_and_its_successor_finds_nothing(
    own_engine: Engine,
) -> None:
    async def body(h: House) -> None:
        def kill() -> None:
            os.kill(own_engine.pid(), signal.SIGKILL)
            own_engine.wait_gone()

        error = await lost(h, "98772", kill)
        assert (error.code, error.holds, error.blame) == (Hold.CONTAINER_ERROR, False, Blame.SYSTEM)
        assert "went away" in error.text
        own_engine.script("daemon")
        assert (await h.run("echo", "again")).out == "again\n"

    run_in_house(own_engine, body)


@pytest.mark.req("D23", "D36")
def test_a_job_can_be_killed_while_the_engine_hangs(own_engine: Engine) -> None:
    async def body(h: House) -> None:
        job = await h.job("sh", "-c", "trap '' TERM; echo begun; sleep 98773 & wait")
        await job.runner.start()
        await job.until("_condor_stdout", b"begun")
        wait = asyncio.create_task(job.runner.wait())
        os.kill(own_engine.pid(), signal.SIGSTOP)
        try:
            await job.runner.signal(signal.SIGTERM)  # may be late, but does not wait for ever
            await job.runner.freeze()
            await job.runner.thaw()
            assert (await job.runner.usage()).processes
            await job.runner.kill()
            ended = await asyncio.wait_for(wait, 40)
            assert ended.killed
            assert ended.status == signal.SIGKILL
            assert marked("98773") == []
        finally:
            os.kill(own_engine.pid(), signal.SIGCONT)
            await job.close()

    run_in_house(own_engine, body)
    assert own_engine.containers() == []


@pytest.mark.req("D36")
@pytest.mark.parametrize("words", [("stop", "-t", "1"), ("kill",), ("rm", "-f")])
def test_a_container_that_somebody_else_ends_requeues_its_job(
    house: WithHouse, engine: Engine, words: tuple[str, ...]
) -> None:
    async def body(h: House) -> None:
        error = await lost(h, "98774", lambda: engine.client(*words, *engine.containers()) and None)
        assert (error.code, error.holds, error.blame) == (Hold.CONTAINER_ERROR, False, Blame.SYSTEM)

    house(body)


@pytest.mark.req("X3", "D14")
def test_what_a_dead_starter_left_is_removed_and_what_a_living_one_uses_is_not(
    house: WithHouse, engine: Engine
) -> None:
    async def body(h: House) -> None:
        living = await h.job("sleep", "98775")
        await living.runner.start()
        dead = subprocess.run(  # noqa: ASYNC221
            [sys.executable, "-c", "from condor_starter.engines import owner; print(owner.mine())"],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        labels = (
            "--label",
            "org.htcondorproject=True",
            "--label",
            f"org.htcondorproject.starter={dead.stdout.strip()}",
        )
        engine.client("run", "-d", "--name", "left", *labels, IMAGE, "sleep", "98776")
        engine.client("create", "--name", "genuine", "--label", "org.htcondorproject=True", IMAGE, "true")
        later = DockerEngine(engine.host)  # as the next starter process has it
        assert len(await later.sweep()) == 1
        await later.close()
        assert sorted(engine.containers()) == sorted([living.container, "genuine"])
        assert marked("98775")
        assert not marked("98776")
        engine.client("rm", "genuine")
        await living.close()

    house(body)


@pytest.mark.req("X3")
def test_a_job_whose_starter_was_restarted_is_run_again(house: WithHouse) -> None:
    async def body(h: House) -> None:
        job = await h.job("sleep", "98777")
        await job.runner.start()
        successor = job.successor()
        with pytest.raises(JobError) as caught:
            await asyncio.wait_for(successor.wait(), 30)
        assert not caught.value.holds
        assert marked("98777") == []
        await successor.close()
        await job.close()

    house(body)
