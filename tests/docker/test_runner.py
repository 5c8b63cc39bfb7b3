"""A job in a container of a real engine, by DockerRunner inside procd's box."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from condor_starter.isolation.boxplan import Limits, Stdio
from condor_starter.job import Blame, DockerSpec, Hold, JobError
from env.docker_house import ENTRYPOINT, IMAGE, NO_COMMAND, WHO, Body, Engine, House, MiB

WithHouse = Callable[[Body], None]
COUNT = "i=0; while :; do i=$((i+1)); echo $i; usleep 20000; done"


def processes(marker: str) -> list[int]:
    """Processes of the whole machine with ``marker`` among their arguments."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if marker.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


async def until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Wait until ``condition`` holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        await asyncio.sleep(0.02)


# -- input, output, exit code -------------------------------------------------------------------------


@pytest.mark.req("D3", "D9", "D10", "D14")
def test_output_comes_back_through_scratch_as_the_jobs_user(house: WithHouse) -> None:
    async def body(h: House) -> None:
        done = await h.run("sh", "-c", "pwd; echo oops >&2; echo data >result; exit 7")
        assert done.code == 7
        assert done.out == f"{done.scratch}\n"
        assert done.err == "oops\n"
        assert done.files["result"] == b"data\n"
        assert done.owners == {WHO.uid}

    house(body)


@pytest.mark.req("D4")
@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("exit 0", 0),
        ("exit 1", 1),
        ("exit 255", 255),
        ("exit 200", 200),
        ("kill -9 $$", -9),
        ("kill -15 $$", -15),
    ],
)
def test_the_exit_code_and_signal_are_true(house: WithHouse, script: str, expected: int) -> None:
    async def body(h: House) -> None:
        done = await h.run("sh", "-c", script)
        assert done.code == expected
        assert not done.exit.oom
        assert not done.exit.killed

    house(body)


@pytest.mark.req("D4")
def test_standard_input_reaches_the_job_to_its_end(house: WithHouse) -> None:
    async def body(h: House) -> None:
        data = os.urandom(3 * MiB)
        done = await h.run("md5sum", stdin="input", files={"input": data})
        assert done.out.split()[0] == hashlib.md5(data).hexdigest()
        assert done.code == 0

    house(body)


@pytest.mark.req("D4")
def test_without_an_input_the_job_reads_an_end_of_file(house: WithHouse) -> None:
    async def body(h: House) -> None:
        assert (await h.run("sh", "-c", "cat; echo done")).out == "done\n"

    house(body)


@pytest.mark.req("D4")
def test_large_output_arrives_whole_and_the_streams_are_kept_apart(house: WithHouse) -> None:
    async def body(h: House) -> None:
        done = await h.run(
            "sh", "-c", "dd if=/dev/zero bs=64k count=320 2>/dev/null; yes e | head -c 1000000 >&2"
        )
        assert done.files["_condor_stdout"] == bytes(320 * 65536)
        assert done.files["_condor_stderr"] == b"e\n" * 500_000

    house(body)


@pytest.mark.req("D4")
def test_output_into_a_pipe_waits_for_its_reader(house: WithHouse) -> None:
    async def body(h: House) -> None:
        reader, writer = os.pipe()
        job = await h.job(
            "sh", "-c", "yes | head -c 2000000", fds=(writer,), streams=(Stdio(), Stdio(fd=0), Stdio())
        )
        try:
            await job.runner.start()
            wait = asyncio.create_task(job.runner.wait())
            await asyncio.sleep(1)  # a slow reader; the loop is not blocked meanwhile
            assert not wait.done()
            taken = b""
            while len(taken) < 2_000_000:
                taken += await asyncio.to_thread(os.read, reader, 65536)
            assert taken == b"y\n" * 1_000_000
            assert (await asyncio.wait_for(wait, 20)).status == 0
        finally:
            await job.close()
            os.close(reader)
            os.close(writer)

    house(body)


@pytest.mark.req("D4")
def test_an_output_that_cannot_be_opened_holds_the_job_with_7(house: WithHouse) -> None:
    async def body(h: House) -> None:
        with pytest.raises(JobError) as caught:
            await h.run("true", streams=(Stdio(), Stdio("no/such/dir"), Stdio()))
        assert caught.value.code == Hold.UNABLE_TO_OPEN_OUTPUT
        assert "no/such/dir" in caught.value.text

    house(body)


@pytest.mark.req("D4")
def test_an_output_outside_scratch_is_refused(house: WithHouse) -> None:
    async def body(h: House) -> None:
        with pytest.raises(JobError) as caught:
            await h.run("true", streams=(Stdio(), Stdio("../../stolen"), Stdio()))
        assert caught.value.code == Hold.UNABLE_TO_OPEN_OUTPUT
        assert not (h.execute.parent / "stolen").exists()

    house(body)


# -- what runs ----------------------------------------------------------------------------------------


@pytest.mark.req("D7")
def test_without_an_executable_the_images_own_command_runs(house: WithHouse) -> None:
    async def body(h: House) -> None:
        assert (await h.run()).out == "default command\n"

    house(body)


@pytest.mark.req("D6", "D8")
def test_a_transferred_script_runs_from_scratch(house: WithHouse) -> None:
    async def body(h: House) -> None:
        script = b"#!/bin/sh\necho script $0 $1\n"
        done = await h.run("/home/alice/my.sh", "x y", files={"my.sh": script}, transfer_executable=True)
        assert done.out == "script ./my.sh x y\n"

    house(body)


@pytest.mark.req("D6")
def test_a_program_of_the_execute_machine_is_not_there(house: WithHouse) -> None:
    async def body(h: House) -> None:
        done = await h.run("/usr/bin/python3", "-c", "print(1)")
        assert done.code == 127  # the container's init says so on stderr
        assert "No such file" in done.err

    house(body)


@pytest.mark.req("D3")
def test_the_images_entrypoint_runs_unless_the_job_overrides_it(house: WithHouse) -> None:
    async def body(h: House) -> None:
        assert (await h.run("a", "b", image=ENTRYPOINT)).out == "entrypoint a b\n"
        overridden = DockerSpec(ENTRYPOINT, override_entrypoint=True)
        assert (await h.run("echo", "mine", docker=overridden)).out == "mine\n"

    house(body)


# -- the box ------------------------------------------------------------------------------------------


@pytest.mark.req("D10", "P2")
def test_the_environment_is_the_images_and_the_jobs_and_nothing_else(house: WithHouse) -> None:
    async def body(h: House) -> None:
        mine = {
            "A": "1",
            "SPACES": " a  b ",
            "LINES": "x\ny",
            "EQUAL": "a=b",
            "LETTERS": "äöü€",
            "FROM_IMAGE": "no",
        }
        done = await h.run("cat", "/proc/self/environ", environment=mine)
        got = dict(v.split("=", 1) for v in done.files["_condor_stdout"].decode().split("\0") if v)
        assert got.pop("HOSTNAME").startswith("alice-12.0-host")
        assert got.pop("HOME") == "/"  # by the runtime, from the image's accounts
        assert got == {"PATH": "/bin", **mine}

    house(body)


@pytest.mark.req("D11", "P1", "X7")
def test_inside_the_job_is_an_unprivileged_user_for_good(house: WithHouse) -> None:
    async def body(h: House) -> None:
        done = await h.run("sh", "-c", "cat /proc/self/status; /suid/su root -c id; echo su=$?")
        status = dict(line.split(":\t", 1) for line in done.out.splitlines() if ":\t" in line)
        assert status["Uid"].split() == [str(WHO.uid)] * 4
        assert status["Gid"].split() == [str(WHO.gid)] * 4
        assert "0" not in status["Groups"].split()
        assert status["NoNewPrivs"] == "1"
        assert [int(status[c], 16) for c in ("CapInh", "CapPrm", "CapEff", "CapAmb")] == [0, 0, 0, 0]
        assert int(status["CapBnd"], 16) == 1 << 19  # SYS_PTRACE
        assert status["Seccomp"] == "2"
        assert "su=0" not in done.out
        assert "uid=0" not in done.out

    house(body)


@pytest.mark.req("D10", "P3")
def test_of_the_machine_only_scratch_is_visible(house: WithHouse) -> None:
    async def body(h: House) -> None:
        done = await h.run("sh", "-c", "cat /proc/self/mountinfo; ls /; ls -d /proc/[0-9]*")
        binds = [line.split()[4] for line in done.out.splitlines() if str(h.execute) in line]
        assert binds == [str(done.scratch)]
        assert not {"/work", "/usr", "/home"} & set(done.out.splitlines())
        assert len([line for line in done.out.splitlines() if line.startswith("/proc/")]) <= 3

    house(body)


@pytest.mark.req("D12", "D15", "D16", "D23")
def test_the_engine_has_the_name_the_labels_and_the_limits_of_the_plan(
    house: WithHouse, engine: Engine
) -> None:
    async def body(h: House) -> None:
        job = await h.job("sleep", "60", limits=Limits(memory=64 * MiB, swap=0, cpu_shares=300, pids=50))
        try:
            await job.runner.start()
            form = (
                "{{.Name}} {{.HostConfig.Memory}} {{.HostConfig.MemorySwap}} {{.HostConfig.CpuShares}} "
                "{{.HostConfig.PidsLimit}} {{.HostConfig.LogConfig.Type}} {{.HostConfig.Init}} "
                '{{index .Config.Labels "org.htcondorproject"}}'
            )
            words = engine.client("inspect", "-f", form, job.container).split()
            assert words[0].startswith("/HTCJob12_0_slot1_1_PID")
            assert words[1:] == [str(64 * MiB), str(64 * MiB), "300", "50", "none", "true", "True"]
        finally:
            await job.close()

    house(body)


@pytest.mark.req("D25")
def test_without_a_network_there_is_loopback_alone(house: WithHouse) -> None:
    async def body(h: House) -> None:
        with_network = await h.run("ls", "/sys/class/net")
        without = await h.run("ls", "/sys/class/net", want_network=False)
        assert with_network.out.split() == ["eth0", "lo"]
        assert without.out.split() == ["lo"]

    house(body)


# -- limits, usage, suspend, kill ---------------------------------------------------------------------

HOG = ("sh", "-c", "echo begun; dd if=/dev/zero of=/dev/null bs=300M count=1; echo survived")


@pytest.mark.req("D16", "G4")
def test_over_the_containers_memory_limit_is_out_of_memory(house: WithHouse) -> None:
    async def body(h: House) -> None:
        done = await h.run(*HOG, limits=Limits(memory=64 * MiB, swap=0))
        assert done.exit.oom

    house(body)


@pytest.mark.req("D16", "G4")
def test_over_the_boxs_memory_limit_is_out_of_memory_though_the_container_has_none(house: WithHouse) -> None:
    async def body(h: House) -> None:
        unlimited: dict[str, object] = {"memory": None, "memory_swap": None}
        done = await h.run(*HOG, limits=Limits(memory=64 * MiB, swap=0), change=unlimited)
        assert done.exit.oom

    house(body)


@pytest.mark.req("D16")
def test_a_job_within_its_memory_limit_is_not_out_of_memory(house: WithHouse) -> None:
    async def body(h: House) -> None:
        done = await h.run(
            "dd", "if=/dev/zero", "of=/dev/null", "bs=30M", "count=3", limits=Limits(memory=64 * MiB)
        )
        assert done.code == 0
        assert not done.exit.oom

    house(body)


@pytest.mark.req("D23", "D24")
def test_usage_is_the_containers_children_included(house: WithHouse) -> None:
    async def body(h: House) -> None:
        burn = (
            "dd if=/dev/zero of=/dev/null bs=40M count=1; i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done"
        )
        done = await h.run("sh", "-c", f"(sh -c '{burn}')")
        used = done.exit.usage.user_usec + done.exit.usage.system_usec
        assert 100_000 < used < 20_000_000
        assert done.exit.duration_usec > used / 3
        assert (done.exit.usage.memory_peak_bytes or 0) > 40 * MiB

    house(body)


@pytest.mark.req("D21", "D23", "G7")
def test_suspend_stops_the_container_and_continue_goes_on(house: WithHouse, engine: Engine) -> None:
    async def body(h: House) -> None:
        job = await h.job("sh", "-c", COUNT)
        try:
            await job.runner.start()
            await job.until("_condor_stdout", b"5\n")
            pid = engine.client("inspect", "-f", "{{.State.Pid}}", job.container)
            places = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
            assert all(f"/{job.box}/" in place for place in places), places
            await job.runner.freeze()
            await asyncio.sleep(0.3)
            before = job.files()["_condor_stdout"]
            usage = await job.runner.usage()
            await asyncio.sleep(1)
            assert job.files()["_condor_stdout"] == before
            assert (await job.runner.usage()).user_usec == usage.user_usec
            await job.runner.thaw()
            await until(lambda: len(job.files()["_condor_stdout"]) > len(before) + 10)
        finally:
            await job.close()

    house(body)


@pytest.mark.req("D21", "D23")
def test_a_suspended_job_can_be_killed(house: WithHouse) -> None:
    async def body(h: House) -> None:
        job = await h.job("sh", "-c", COUNT)
        try:
            await job.runner.start()
            await job.runner.freeze()
            await job.runner.kill()
            ended = await asyncio.wait_for(job.runner.wait(), 30)
            assert ended.killed
            assert ended.status == signal.SIGKILL
        finally:
            await job.close()

    house(body)


@pytest.mark.req("D32")
def test_a_soft_kill_reaches_the_job(house: WithHouse) -> None:
    async def body(h: House) -> None:
        job = await h.job(
            "sh", "-c", "trap 'echo caught; exit 3' TERM; echo ready; while :; do usleep 10000; done"
        )
        try:
            await job.runner.start()
            await job.until("_condor_stdout", b"ready")
            await job.runner.signal(signal.SIGTERM)
            ended = await asyncio.wait_for(job.runner.wait(), 20)
            assert os.waitstatus_to_exitcode(ended.status) == 3
            assert b"caught" in job.files()["_condor_stdout"]
        finally:
            await job.close()

    house(body)


@pytest.mark.req("D4", "D23", "G2")
def test_a_job_that_ignores_sigterm_is_killed(house: WithHouse) -> None:
    async def body(h: House) -> None:
        job = await h.job("sh", "-c", "trap '' TERM; echo ready; sleep 98761 & wait")
        try:
            await job.runner.start()
            await job.until("_condor_stdout", b"ready")
            await job.runner.signal(signal.SIGTERM)
            await asyncio.sleep(0.5)
            assert processes("98761")
            await job.runner.kill()
            ended = await asyncio.wait_for(job.runner.wait(), 20)
            assert ended.killed
            assert ended.status == signal.SIGKILL
            assert processes("98761") == []
        finally:
            await job.close()

    house(body)


@pytest.mark.req("D23", "G2", "P1")
def test_a_double_forked_daemon_dies_with_its_job(house: WithHouse) -> None:
    async def body(h: House) -> None:
        script = "(setsid env -i /bin/sleep 98762 </dev/null >/dev/null 2>&1 &) & usleep 300000; echo bye"
        job = await h.job("sh", "-c", script)
        try:
            await job.runner.start()
            await until(lambda: processes("98762"))
            ended = await asyncio.wait_for(job.runner.wait(), 20)
            assert ended.status == 0
            assert processes("98762") == []
        finally:
            await job.close()

    house(body)


@pytest.mark.req("D4")
def test_a_kill_before_the_start_leaves_nothing(house: WithHouse, engine: Engine) -> None:
    async def body(h: House) -> None:
        job = await h.job("sleep", "98763")
        start = asyncio.create_task(job.runner.start())
        while not engine.containers():  # noqa: ASYNC110  (the engine has no event loop)
            await asyncio.sleep(0)
        await job.runner.kill()
        await asyncio.gather(start, return_exceptions=True)
        if start.exception() is None:
            assert (await asyncio.wait_for(job.runner.wait(), 20)).killed
        await job.close()
        assert processes("98763") == []

    house(body)


@pytest.mark.req("D4")
def test_a_cancelled_start_leaves_no_container(house: WithHouse, engine: Engine) -> None:
    async def body(h: House) -> None:
        for delay in (0.01, 0.05, 0.1, 0.2):
            job = await h.job("sleep", "98764")
            start = asyncio.create_task(job.runner.start())
            await asyncio.sleep(delay)
            start.cancel()
            await asyncio.gather(start, return_exceptions=True)
            await job.close()
            assert engine.containers() == []
            assert processes("98764") == []

    house(body)


# -- several jobs -------------------------------------------------------------------------------------


@pytest.mark.req("D4", "P3")
def test_two_jobs_at_once_do_not_mix(house: WithHouse) -> None:
    async def body(h: House) -> None:
        first, second = await asyncio.gather(
            h.run("sh", "-c", "for i in 1 2 3; do echo first; sleep 1; done; exit 1"),
            h.run("sh", "-c", "for i in 1 2 3; do echo second; sleep 1; done; exit 2"),
        )
        assert (first.code, first.out) == (1, "first\n" * 3)
        assert (second.code, second.out) == (2, "second\n" * 3)

    house(body)


@pytest.mark.req("D23")
def test_a_running_job_costs_no_thread(house: WithHouse) -> None:
    async def body(h: House) -> None:
        jobs = [await h.job("sleep", "60") for _ in range(8)]
        try:
            for job in jobs:
                await job.runner.start()
            waits = [asyncio.create_task(job.runner.wait()) for job in jobs]
            await asyncio.sleep(0.5)
            names = [t.name for t in threading.enumerate() if "docker" in t.name]
            assert len(names) <= 4 + 2 + 1, names  # the pools for calls and pulls, and the events' reader
            assert names.count("docker-events") == 1
            for job in jobs:
                await job.runner.kill()
            assert [e.killed for e in await asyncio.gather(*waits)] == [True] * 8
        finally:
            for job in jobs:
                await job.close()

    house(body)


# -- refusals -----------------------------------------------------------------------------------------


@pytest.mark.req("D5", "D18")
def test_an_image_that_is_nowhere_is_held_with_35_and_the_engines_reason(house: WithHouse) -> None:
    async def body(h: House) -> None:
        with pytest.raises(JobError) as caught:
            await h.run("true", image="127.0.0.1:9/no/such-image:7")
        error = caught.value
        assert (error.code, error.holds, error.blame) == (Hold.INVALID_DOCKER_IMAGE, True, Blame.USER)
        assert error.text.startswith("Cannot pull image 127.0.0.1:9/no/such-image:7: ")
        assert "connection refused" in error.text

    house(body)


@pytest.mark.req("D5")
def test_the_pull_policy_never_does_not_ask_a_registry(house: WithHouse) -> None:
    async def body(h: House) -> None:
        with pytest.raises(JobError, match="pull policy is never"):
            await h.run("true", docker=DockerSpec("no/such:1", pull_policy="never"))
        assert (await h.run("true", docker=DockerSpec(IMAGE, pull_policy="never"))).code == 0

    house(body)


@pytest.mark.req("D18")
def test_an_image_without_any_command_is_held_and_nothing_is_left(house: WithHouse) -> None:
    async def body(h: House) -> None:
        with pytest.raises(JobError) as caught:
            await h.run(image=NO_COMMAND)
        assert caught.value.code == Hold.INVALID_DOCKER_IMAGE
        assert "No command specified" in caught.value.text

    house(body)


@pytest.mark.req("D18", "D14")
def test_a_command_that_cannot_be_executed_is_held_and_the_container_is_gone(
    house: WithHouse, engine: Engine
) -> None:
    async def body(h: House) -> None:
        for program in ("/no/such/program", "/etc/passwd"):
            job = await h.job(program, change={"init": False})
            with pytest.raises(JobError) as caught:
                await job.runner.start()
            assert caught.value.code == Hold.FAILED_TO_CREATE_PROCESS
            assert caught.value.text.startswith("Error running docker job: ")
            await job.close()
            assert engine.containers() == []

    house(body)


@pytest.mark.req("D14")
def test_a_leftover_container_of_the_same_name_is_replaced(house: WithHouse, engine: Engine) -> None:
    async def body(h: House) -> None:
        job = await h.job("echo", "fresh")
        engine.client("create", "--name", job.container, "--label", "org.htcondorproject=True", IMAGE, "true")
        await job.runner.start()
        assert (await asyncio.wait_for(job.runner.wait(), 20)).status == 0
        assert job.files()["_condor_stdout"] == b"fresh\n"
        await job.close()

    house(body)


@pytest.mark.req("D14")
def test_somebody_elses_container_of_the_same_name_is_left_alone(house: WithHouse, engine: Engine) -> None:
    async def body(h: House) -> None:
        job = await h.job("echo", "fresh")
        engine.client("create", "--name", job.container, IMAGE, "true")
        with pytest.raises(JobError) as caught:
            await job.runner.start()
        assert not caught.value.holds
        await job.close()
        assert engine.containers() == [job.container]
        engine.client("rm", job.container)

    house(body)


# -- an engine that keeps its containers' cgroups to itself -------------------------------------------
# With systemd's cgroup driver, or rootless, a container cannot lie in our box. The engine here could do
# it: it is only declared unable, so what is tried is our way without a cgroup of our own.


def apart(body: Body) -> Body:
    async def with_other_facts(h: House) -> None:
        assert h.engine.facts is not None
        h.engine.facts = replace(h.engine.facts, cgroup_driver="systemd")
        await body(h)

    return with_other_facts


@pytest.mark.req("D35", "D21", "D23")
def test_without_our_cgroup_the_engine_suspends_measures_and_kills(house: WithHouse) -> None:
    async def body(h: House) -> None:
        job = await h.job("sh", "-c", COUNT)
        try:
            await job.runner.start()
            await job.until("_condor_stdout", b"5\n")
            assert any("the engine's own" in line for line in h.said or [])
            usage = await job.runner.usage()
            assert usage.user_usec + usage.system_usec > 0
            assert usage.processes
            await job.runner.freeze()
            await asyncio.sleep(0.3)
            before = job.files()["_condor_stdout"]
            await asyncio.sleep(0.5)
            assert job.files()["_condor_stdout"] == before
            await job.runner.thaw()
            await until(lambda: len(job.files()["_condor_stdout"]) > len(before))
            await job.runner.freeze()
            await job.runner.kill()
            ended = await asyncio.wait_for(job.runner.wait(), 30)
            assert (ended.killed, ended.status) == (True, signal.SIGKILL)
        finally:
            await job.close()

    house(apart(body))


@pytest.mark.req("D35", "D16")
def test_without_our_cgroup_exit_codes_and_memory_limits_hold(house: WithHouse) -> None:
    async def body(h: House) -> None:
        assert (await h.run("sh", "-c", "exit 5")).code == 5
        assert (await h.run(*HOG, limits=Limits(memory=64 * MiB, swap=0))).exit.oom
        job = await h.job("sh", "-c", "(setsid sleep 98765 &) & echo on; usleep 200000")
        await job.runner.start()
        assert (await asyncio.wait_for(job.runner.wait(), 30)).status == 0
        assert processes("98765") == []
        await job.close()

    house(apart(body))
