"""A procd and a starterd of a test's own, as separate processes that can be killed and started again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from condor_starter.cli.client import ApiFailure, Client
from condor_starter.daemon import launch
from condor_starter.daemon.dispose import dispose
from condor_starter.log import StarterLog
from condor_starter.procd import main as procd_main
from condor_starter.procd.client import Procd

ROOT = os.geteuid() == 0
STARTERD = "import sys; from condor_starter.cli.condor_starterd import main; sys.exit(main(sys.argv[1:]))"
ENV = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/nonexistent"}
PATIENCE = 30.0


class Machine:
    """The two daemons on directories of their own beneath ``base``."""

    def __init__(self, base: Path, name: str, run: Path | None = None) -> None:
        self.base = base
        self.run, self.state, self.execute = run or base / "run", base / "state", base / "execute"
        self.execute.mkdir(mode=0o755)
        self.home = base / "home"  # where jobs of anybody may write
        self.home.mkdir()
        self.home.chmod(0o1777)
        self.name = name
        self.procd: subprocess.Popen[bytes] | None = None
        self.starterd: subprocess.Popen[bytes] | None = None

    @property
    def api(self) -> str:
        return str(self.run / "api.sock")

    def client(self) -> Client:
        return Client(self.api)

    # -- processes --------------------------------------------------------------------------------

    def start(self, *options: str) -> None:
        """Start what does not run; returns when it serves."""
        if self.procd is None:
            self.start_procd()
        argv = [sys.executable, "-c", STARTERD, "-f", "--procd=wait", *self.options(), *options]
        self.starterd = self._spawn(argv, "starterd.log")
        with self.client() as client:
            until(lambda: self.alive() and healthy(client))

    def options(self) -> list[str]:
        """The daemon's places."""
        places = {"EXECUTE": self.execute, "LOG": self.base / "log"}
        return [
            f"--run-dir={self.run}",
            f"--state-dir={self.state}",
            *(f"--set={k}={v}" for k, v in places.items()),
        ]

    def procd_settings(self) -> list[str]:
        client = "daemon" if ROOT else str(os.getuid())
        base = f"base_cgroup={self.name}"
        return [f"run={self.run}", f"execute={self.execute}", f"client={client}", base]

    def start_procd(self, *settings: str) -> None:
        argv = [sys.executable, "-I", "-S", procd_main.__file__]
        argv += [f"--set={s}" for s in (*self.procd_settings(), *settings)]
        self.procd = self._spawn(argv, "procd.log")
        until(lambda: launch.listens(self.run))

    def alive(self) -> bool:
        """True, or AssertionError with the log of a starterd that ended."""
        assert self.starterd is not None
        assert self.starterd.poll() is None, self.log()
        return True

    def kill_starterd(self, number: int = signal.SIGKILL) -> int:
        """End starterd by a signal; its exit status."""
        assert self.starterd is not None
        self.starterd.send_signal(number)
        return self.starterd.wait(PATIENCE)

    def kill_procd(self) -> None:
        assert self.procd is not None
        self.procd.kill()
        self.procd.wait(PATIENCE)

    def log(self) -> str:
        return (self.base / "starterd.log").read_text() + (self.base / "procd.log").read_text()

    def _spawn(self, argv: list[str], log: str) -> subprocess.Popen[bytes]:
        with (self.base / log).open("ab") as stderr:
            return subprocess.Popen(argv, env=ENV, stderr=stderr, stdin=subprocess.DEVNULL)

    # -- what is there ----------------------------------------------------------------------------

    def boxes(self) -> list[str]:
        """The names of procd's ledger entries."""
        return [n for n in os.listdir(self.run / "ledger") if not n.endswith(".status")]

    def terminal_records(self, number: int) -> list[dict[str, Any]]:
        """Every terminal record that there is for a job."""
        text = (self.state / "jobs" / str(number)).read_text()
        lines = [json.loads(line) for line in text.splitlines() if line]
        return [line["outcome"] for line in lines if "outcome" in line]

    def clean_up(self) -> None:
        """Nothing of ours stays, whatever the test did."""
        if self.starterd is not None:
            self.starterd.kill()
            self.starterd.wait(PATIENCE)
        if self.procd is not None:
            self.kill_procd()
            self.start_procd()
            asyncio.run(self._destroy_all())
            assert self.procd is not None
            self.procd.terminate()
            self.procd.wait(PATIENCE)

    async def _destroy_all(self) -> None:
        procd = await Procd.connect(str(self.run / "procd.sock"))
        _, boxes = await procd.hello()
        for box in boxes:
            await dispose(procd, box, StarterLog(sys.stderr))
        assert (await procd.hello())[1] == []
        await procd.close()


@contextlib.contextmanager
def machine(base: Path, name: str, run: Path | None = None) -> Iterator[Machine]:
    """A machine that is cleaned up whatever happens."""
    found = Machine(base, name, run)
    try:
        yield found
    finally:
        found.clean_up()


def healthy(client: Client) -> bool:
    try:
        client.get("/v1/health")
    except ApiFailure:
        return False
    return True


def until(condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Wait until ``condition`` gives something true, and return it."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
    return value


def ended(client: Client, number: int, seconds: float = PATIENCE) -> dict[str, Any]:
    """The job once it is done."""
    deadline = time.monotonic() + seconds
    while (job := client.wait(number, 5))["state"] != "done":
        assert time.monotonic() < deadline, job
    return job


def ad(*argv: str, **attributes: object) -> bytes:
    """An ad in old syntax that runs ``argv``; as nobody when root submits it."""
    quoted = " ".join("'" + a.replace("'", "''") + "'" for a in argv[1:])
    values: dict[str, object] = {"Cmd": argv[0], "Arguments": quoted}
    if ROOT:
        values["Owner"] = "nobody"
    values |= attributes
    return "".join(f"{k} = {json.dumps(v)}\n" for k, v in values.items()).encode()


def shell(script: str, **attributes: object) -> bytes:
    """An ad that runs ``script``."""
    return ad("/bin/sh", "-c", script, **attributes)


def alive(pid: int) -> bool:
    """True unless ``pid`` has ended (a zombie has)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"
