"""The thin client that a startd runs, with a real starterd behind it, or none."""

from __future__ import annotations

import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from condor_starter.cli.verbs import install
from system import daemon_help
from system.daemon_help import PATIENCE, ROOT, Machine, ad, until


@pytest.fixture
def machine(open_dir: Path, unique: str) -> Iterator[Machine]:
    with daemon_help.machine(open_dir, unique) as found:
        found.start()
        yield found


class Thin:
    """An installed thin client of a machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.path = machine.base / "condor_starter"
        python = Path(os.path.realpath(sys.executable))
        self.path.write_bytes(install.script(python, str(machine.run), 1 if ROOT else os.getuid()))
        self.path.chmod(0o755)
        self.log = machine.base / "log"
        self.env = daemon_help.ENV | {
            "_CONDOR_EXECUTE": str(machine.execute),
            "_CONDOR_LOG": str(self.log),
            "_CONDOR_BASE_CGROUP": machine.name,
            "_CONDOR_STARTER_RUN_DIR": str(machine.run),
        }

    def start(self, *argv: str, stdin: bytes = b"", **options: object) -> subprocess.Popen[bytes]:
        reader, writer = os.pipe()
        os.write(writer, stdin)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            return subprocess.Popen(
                [str(self.path), *argv], stdin=pipe, stdout=subprocess.PIPE, env=self.env, **options
            )  # type: ignore[call-overload]

    def job(self, text: bytes, *more: str, **options: object) -> subprocess.Popen[bytes]:
        """A job by the genuine flags: the ad on stdin, the final ad on stdout."""
        return self.start(
            "-f", "-a", "slot1", "-job-input-ad", "-", "-job-output-ad", "-", *more, stdin=text, **options
        )

    def scratch(self, process: subprocess.Popen[bytes]) -> Path:
        return self.machine.execute / f"dir_{process.pid}"


def finished(process: subprocess.Popen[bytes]) -> tuple[int, bytes]:
    out, _ = process.communicate(timeout=PATIENCE)
    return process.returncode, out


def left(machine: Machine) -> list[str]:
    return machine.boxes() + os.listdir(machine.execute)


@pytest.mark.req("H1")
def test_a_job_by_the_thin_client_has_its_pid_directory_and_streams(machine: Machine) -> None:
    thin = Thin(machine)
    script = '[ "$_CONDOR_SCRATCH_DIR" = "$0" ] || exit 3; pwd > "$1"; exit 9'
    mark = machine.home / "mark"
    process = thin.job(ad("/bin/sh", "-c", script, "x"))
    status, out = finished(process)
    assert (status, b"ExitCode = 3" in out) == (0, True)
    text = ad("/bin/sh", "-c", 'echo $_CONDOR_SCRATCH_DIR > "$0"; exit 9', str(mark))
    process = thin.job(text)
    status, out = finished(process)
    assert (status, b"ExitCode = 9" in out) == (0, True), out
    assert mark.read_text().strip() == str(thin.scratch(process))
    assert left(machine) == []


@pytest.mark.req("H1")
def test_file_names_on_the_command_line_are_the_thin_clients(machine: Machine) -> None:
    thin = Thin(machine)
    (machine.home / "in.ad").write_bytes(ad("/bin/echo", "by name", Iwd=str(machine.home)))
    for name in ("in.ad", str(machine.home / "in.ad")):
        process = thin.start("-f", "-job-input-ad", name, "-job-stdout", "out.txt", cwd=machine.home)
        assert finished(process)[0] == 0, machine.log()
        assert (machine.home / "out.txt").read_text() == "by name\n"


@pytest.mark.req("H1")
def test_standard_streams_of_the_thin_client_reach_the_job(machine: Machine) -> None:
    (machine.home / "in.ad").write_bytes(ad("/bin/cat"))
    process = Thin(machine).start(
        "-f",
        "-job-input-ad",
        str(machine.home / "in.ad"),
        "-job-stdin",
        "-",
        "-job-stdout",
        "-",
        stdin=b"through\n",
    )
    assert finished(process) == (0, b"through\n")


@pytest.mark.req("H1", "D4")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR1])
def test_signals_to_the_thin_client_end_its_job_even_if_they_were_blocked(
    machine: Machine, number: int
) -> None:
    """A startd forks its starters with nearly every signal blocked."""
    thin = Thin(machine)
    mark = machine.home / f"begun{number}"
    blocked = {signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR1, signal.SIGCHLD, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        process = thin.job(ad("/bin/sh", "-c", 'touch "$0"; exec sleep 60', str(mark)))
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
    until(mark.exists)
    process.send_signal(number)
    began = time.monotonic()
    status, _ = finished(process)
    assert status == 0
    assert time.monotonic() - began < 5
    assert left(machine) == []


@pytest.mark.req("H1", "X3")
def test_when_the_thin_client_is_killed_its_job_dies_within_seconds(machine: Machine) -> None:
    thin = Thin(machine)
    pids = machine.home / "pids"
    script = 'trap "" TERM; setsid sleep 600 & sleep 600 & echo $$ > "$0"; wait'
    process = thin.job(ad("/bin/sh", "-c", script, str(pids)))
    until(lambda: pids.exists() and pids.read_text())
    assert machine.boxes()
    process.kill()
    finished(process)
    until(lambda: left(machine) == [], 5)


@pytest.mark.req("H1", "X3")
def test_when_starterd_is_killed_the_thin_client_waits_for_the_job_to_be_dead_and_fails(
    machine: Machine,
) -> None:
    thin = Thin(machine)
    mark = machine.home / "begun"
    process = thin.job(ad("/bin/sh", "-c", 'touch "$0"; exec sleep 600', str(mark)))
    until(mark.exists)
    machine.kill_starterd()
    time.sleep(0.5)
    assert process.poll() is None, "it must not free the slot while its job may run"
    machine.start()
    assert finished(process)[0] == 1
    assert left(machine) == []


@pytest.mark.req("H1")
def test_when_starterd_is_told_to_stop_pool_jobs_are_ended_and_told(machine: Machine) -> None:
    thin = Thin(machine)
    mark = machine.home / "begun"
    process = thin.job(ad("/bin/sh", "-c", 'touch "$0"; exec sleep 600', str(mark)))
    until(mark.exists)
    assert machine.kill_starterd(signal.SIGTERM) == 0
    assert finished(process)[0] == 0
    assert left(machine) == []


@pytest.mark.req("H1")
def test_without_starterd_the_thin_client_does_the_work_itself(open_dir: Path, unique: str) -> None:
    machine = Machine(open_dir, unique)
    process = Thin(machine).job(ad("/bin/sh", "-c", "exit 4"))
    status, out = finished(process)
    assert (status, b"ExitCode = 4" in out) == (0, True), out
    assert os.listdir(machine.execute) == []


@pytest.mark.req("H1")
def test_the_capabilities_are_told_by_the_thin_client(machine: Machine) -> None:
    status, out = finished(Thin(machine).start("-classad"))
    assert status == 0
    assert b"HasFileTransfer = True" in out.splitlines() or b"HasFileTransfer = true" in out.splitlines()


@pytest.mark.skipif(not ROOT, reason="needs root: a starterd of another account")
@pytest.mark.req("X2", "P6")
def test_the_thin_client_hands_nothing_to_a_stranger(open_dir: Path, unique: str) -> None:
    """The request holds the session keys of the pool."""
    machine = Machine(open_dir, unique)
    machine.run.mkdir()
    code = (
        "import os, socket, sys\n"
        "s = socket.socket(socket.AF_UNIX)\n"
        f"s.bind({str(machine.run / 'intake.sock')!r})\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "s.listen()\n"
        "print('ready', flush=True)\n"
        "s.settimeout(20)\n"
        "print(len(s.accept()[0].recv(100)), flush=True)\n"
    )
    stranger = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert stranger.stdout
    assert stranger.stdout.readline() == b"ready\n"
    status, out = finished(Thin(machine).job(ad("/bin/sh", "-c", "exit 4")))
    assert (status, b"ExitCode = 4" in out) == (0, True)
    assert stranger.communicate(timeout=PATIENCE)[0] == b"0\n"


@pytest.mark.skipif(not ROOT, reason="needs root: another user's client")
@pytest.mark.req("X2", "P6")
def test_only_root_and_the_starters_account_may_hand_over_jobs(machine: Machine) -> None:
    path = machine.run / "intake.sock"
    code = (
        "import os, socket, sys\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "s = socket.socket(socket.AF_UNIX)\n"
        f"try: s.connect({str(path)!r})\n"
        "except PermissionError: sys.exit(7)\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 7
    path.chmod(0o666)  # the kernel's word on who it is counts, too
    code += (
        "s.settimeout(5)\n"
        "try: s.sendall(bytes(4)); sys.exit(9 if s.recv(1) else 8)\n"
        "except ConnectionError: sys.exit(8)\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 8


@pytest.mark.req("P6")
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"\xff\xff\xff\xff",
        b"\0\0\0\x05hello",
        b"\0\0\0\x09" + b"1\0/\0" + b"99\0\0x",
        b"\0\0\0\x40abc",
    ],
)
def test_a_request_that_is_none_disturbs_nobody(machine: Machine, data: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(machine.run / "intake.sock"))
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        sock.settimeout(10)
        assert sock.recv(1) in (b"", b"R", b"A")
    assert finished(Thin(machine).job(ad("/bin/true")))[0] == 0
    machine.alive()


@pytest.mark.req("H1")
def test_the_thin_client_starts_faster_than_an_empty_python(machine: Machine) -> None:
    """Against ``python -c pass``, interleaved; the client finds no starterd and executes /bin/true."""
    thin = Thin(machine)
    source = thin.path.read_text()
    start = source.rindex("\nmain(")
    thin.path.write_text(source[:start] + f'\nmain("{machine.base}/none", (), (b"/bin/true",))\n')
    python = os.path.realpath(sys.executable)
    times: dict[str, list[float]] = {"thin": [], "pass": []}
    for _ in range(40):
        for name, argv in (("thin", [str(thin.path)]), ("pass", [python, "-c", "pass"])):
            began = time.perf_counter()
            pid = os.posix_spawn(argv[0], argv, daemon_help.ENV)
            os.waitpid(pid, 0)
            times[name].append(time.perf_counter() - began)
    ours, theirs = statistics.median(times["thin"]), statistics.median(times["pass"])
    print(f"thin client with /bin/true {1e3 * ours:.1f} ms, python -c pass {1e3 * theirs:.1f} ms")
    assert ours < 1.1 * theirs


@pytest.mark.skipif(not ROOT, reason="needs root: what root may run")
@pytest.mark.req("X2", "P6")
def test_a_script_for_root_is_not_made_from_what_others_can_change(open_dir: Path) -> None:
    assert install.weakness(Path("/usr/bin")) == ""
    loose = open_dir / "loose"
    loose.mkdir()
    loose.chmod(0o777)
    assert str(loose) in install.weakness(loose / ".")
    (open_dir / "owned").mkdir()
    os.chown(open_dir / "owned", 65534, 65534)
    assert "can be changed by others" in install.weakness(open_dir / "owned")
