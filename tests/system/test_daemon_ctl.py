"""starterctl's verbs that talk to starterd, as a user types them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from system import daemon_help
from system.daemon_help import ENV, PATIENCE, ROOT, Machine, ad, ended, shell, until

CTL = [sys.executable, "-c", "import sys; from condor_starter.cli.starterctl import main; sys.exit(main())"]


@pytest.fixture
def machine(open_dir: Path, unique: str) -> Iterator[Machine]:
    with daemon_help.machine(open_dir, unique) as found:
        found.start()
        yield found


def ctl(machine: Machine, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run starterctl with the run directory by its environment."""
    env = ENV | {"_CONDOR_STARTER_RUN_DIR": str(machine.run)}
    return subprocess.run([*CTL, *words], input=stdin, capture_output=True, env=env, timeout=PATIENCE)


@pytest.mark.req("H6")
@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        (shell("exit 0"), 0, b""),
        (shell("exit 42"), 42, b""),
        (shell("kill -SEGV $$"), 128 + 11, b""),
        (ad("/no/such/program"), 230, b"/no/such/program"),
        (ad("/bin/true", Owner="no_such_account"), 2, b"no_such_account"),
        (b"Cmd = \n", 2, b"line 1"),
        (b'Arguments = "x"\n', 2, b"Cmd"),
    ],
)
def test_submit_and_wait_exits_with_the_jobs_status(
    machine: Machine, text: bytes, status: int, said: bytes
) -> None:
    done = ctl(machine, "submit", "--wait", "-", stdin=text)
    assert done.returncode == status, done.stderr
    assert said in done.stderr
    assert done.stderr.count(b"\n") == bool(said)


def init_of(machine: Machine) -> int:
    """The init of the only box, as procd's ledger has it; 0 while it is not there yet."""
    lines = (machine.run / "ledger" / machine.boxes()[0]).read_text().splitlines()
    return next((fact["pid"] for fact in map(json.loads, lines) if "pid" in fact), 0)


@pytest.mark.req("H6", "X9")
def test_a_failure_of_the_system_is_231(machine: Machine) -> None:
    (machine.base / "ad").write_bytes(shell("sleep 60"))
    waiting = subprocess.Popen(
        [*CTL, "submit", "--wait", str(machine.base / "ad"), "--run-dir", str(machine.run)],
        env=ENV,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with machine.client() as client:
        until(lambda: [j for j in client.jobs() if j["state"] == "running"])
        until(lambda: init_of(machine))
    os.kill(init_of(machine), 9)
    _, stderr = waiting.communicate(timeout=PATIENCE)
    assert waiting.returncode == 231
    assert b"(system)" in stderr


@pytest.mark.req("H6")
def test_submit_prints_the_number_that_the_other_verbs_take(machine: Machine) -> None:
    number = (
        ctl(machine, "submit", "-", stdin=shell("echo out; echo err >&2; exit 3")).stdout.decode().strip()
    )
    with machine.client() as client:
        ended(client, int(number))
    listed = ctl(machine, "ps").stdout.decode().splitlines()
    assert len(listed) == 1, "it has ended"
    row = ctl(machine, "ps", "-a").stdout.decode().splitlines()[1].split()
    assert row[0] == number
    assert "exited 3" in " ".join(row)
    assert json.loads(ctl(machine, "ps", "--json", number).stdout)["outcome"]["exit_code"] == 3
    assert ctl(machine, "tail", number).stdout == b"out\n"
    assert ctl(machine, "tail", "--stderr", number).stdout == b"err\n"
    assert b"status=3" in ctl(machine, "log", number).stdout
    assert ctl(machine, "forget", number).returncode == 0
    assert ctl(machine, "ps", number).returncode == 2


@pytest.mark.req("G7", "D4")
def test_suspend_continue_and_remove(machine: Machine) -> None:
    number = ctl(machine, "submit", "-", stdin=shell("sleep 60")).stdout.decode().strip()
    with machine.client() as client:
        until(lambda: client.job(int(number))["state"] == "running")
        assert ctl(machine, "suspend", number).returncode == 0
        until(lambda: client.job(int(number))["state"] == "suspended")
        assert b"suspended" in ctl(machine, "ps").stdout
        assert ctl(machine, "continue", number).returncode == 0
        until(lambda: client.job(int(number))["state"] == "running")
        assert ctl(machine, "remove", "--reason", "no more", number).returncode == 0
        assert ended(client, int(number))["outcome"]["ended_by"]["reason"] == "no more"
    assert ctl(machine, "remove", number).returncode == 2
    assert ctl(machine, "suspend", "4711").returncode == 2


@pytest.mark.req("D13")
@pytest.mark.parametrize("named", [False, True])
def test_tail_follows_until_the_job_ends(machine: Machine, named: bool) -> None:
    """Also a file of the user's own, which starterd may not read for him."""
    files: dict[str, object] = {"Iwd": str(machine.home), "Out": "out"} if named else {}
    script = "echo 1; sleep 0.4; echo 2; sleep 0.4; echo 3"
    number = ctl(machine, "submit", "-", stdin=shell(script, **files)).stdout.decode().strip()
    with machine.client() as client:
        until(lambda: client.job(int(number))["state"] == "running")
    began = time.monotonic()
    assert ctl(machine, "tail", "-f", number).stdout == b"1\n2\n3\n"
    assert time.monotonic() - began > 0.3


@pytest.mark.req("H6", "X9")
def test_without_a_starterd_every_verb_says_so(machine: Machine) -> None:
    machine.kill_starterd()
    for words in (["submit", "-"], ["ps"], ["remove", "1"], ["tail", "1"], ["log", "1"], ["drain"]):
        done = ctl(machine, *words, stdin=ad("/bin/true"))
        assert done.returncode == 231
        assert b"No condor_starterd at" in done.stderr


@pytest.mark.req("H6")
def test_drain_stops_the_starter(machine: Machine) -> None:
    assert machine.starterd
    assert ctl(machine, "drain").returncode == 0
    assert machine.starterd.wait(PATIENCE) == 0


@pytest.mark.req("H1")
def test_install_starter_writes_a_script_that_works(machine: Machine) -> None:
    path = machine.base / "condor_starter"
    knobs = {"STARTER_RUN_DIR": machine.run, "CONDOR_IDS": "1.1" if ROOT else ""}
    done = ctl(
        machine, "install-starter", "--force", str(path), *(f"--knob={k}={v}" for k, v in knobs.items())
    )
    assert (done.returncode, done.stdout) == (0, f"STARTER = {path}\n".encode()), done.stderr
    assert (path.stat().st_mode & 0o777, path.stat().st_uid) == (0o755, os.getuid())
    first = path.read_text().splitlines()[0]
    assert first == f"#!{os.path.realpath(sys.executable)} -IS"
    env = ENV | {"_CONDOR_EXECUTE": str(machine.execute), "_CONDOR_LOG": str(machine.base / "log")}
    argv = [str(path), "-f", "-job-input-ad", "-", "-job-output-ad", "-"]
    job = subprocess.run(argv, input=shell("exit 6"), capture_output=True, env=env, timeout=PATIENCE)
    assert job.returncode == 0
    assert b"ExitCode = 6" in job.stdout
