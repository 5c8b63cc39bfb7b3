"""A machine with systemd and pure cgroup v2, as its admin sees it: programs, units, cgroups, what is left."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from condor_starter.cli.client import ApiFailure, Client

CGROUPS = Path("/sys/fs/cgroup")
BOXES = CGROUPS / "condor_starter.slice" / "condor_starter_boxes.service"
EXECUTE = Path("/var/lib/condor/execute")
RUN = Path("/run/condor_starter")
BIN = Path("/opt/condor_starter/bin")
JOB_USER = "tester"  # uid 1000, of the image; no test runs anything else as this account
JOB_UID = 1000
PATIENCE = 60.0  # seconds; everything is some ten times slower than on a real machine


class Ran(NamedTuple):
    """A command that has ended."""

    status: int
    out: str
    err: str


class Guest:
    """This machine."""

    def command(self, *argv: str, stdin: str = "", timeout: float = 120) -> Ran:
        """Run a program of ours, or of the system, to its end."""
        path = str(BIN / argv[0]) if (BIN / argv[0]).exists() else argv[0]
        done = subprocess.run([path, *argv[1:]], input=stdin, capture_output=True, text=True, timeout=timeout)
        return Ran(done.returncode, done.stdout, done.stderr)

    def systemctl(self, *argv: str) -> str:
        """systemctl, which must succeed; what the units' journal says, if it does not."""
        done = self.command("systemctl", *argv)
        assert done.status == 0, f"{done.err}\n{self.journal()}"
        return done.out

    def show(self, unit: str, name: str) -> str:
        """One property of a unit."""
        return self.systemctl("show", "--value", "-p", name, unit).strip()

    def journal(self) -> str:
        """The last of what our units said."""
        return self.command("journalctl", "--no-pager", "-n", "60", "-u", "condor_starter*").out

    def client(self) -> Client:
        return Client(str(RUN / "api.sock"))

    def wait_for_api(self) -> None:
        def serves() -> bool:
            try:
                with self.client() as client:
                    return bool(client.get("/v1/health"))
            except ApiFailure:
                return False

        eventually("starterd serves", serves, self.journal)

    def kill_main(self, unit: str) -> int:
        """SIGKILL the unit's main process; returns the next one's pid, which is ready."""
        old = int(self.show(unit, "MainPID"))
        os.kill(old, 9)

        def next_one() -> int:
            pid, state = int(self.show(unit, "MainPID")), self.show(unit, "ActiveState")
            return pid if pid not in (0, old) and state == "active" else 0

        return int(eventually(f"systemd starts {unit} again", next_one, self.journal))

    def job_processes(self) -> list[str]:
        """Processes of the jobs' account: "pid command line"."""
        return [f"{p.name} {command(p)}" for p in Path("/proc").glob("[0-9]*") if owner(p) == JOB_UID]

    def assert_clean(self) -> None:
        """No process, cgroup, mount, scratch directory or open ledger entry of a job is left."""
        eventually(
            "nothing is left", lambda: not any(self.leftovers().values()), lambda: str(self.leftovers())
        )

    def leftovers(self) -> dict[str, list[str]]:
        """What jobs left, by kind."""
        ledger = RUN / "ledger"
        return {
            "processes": self.job_processes(),
            "cgroups": [str(p) for base in (BOXES, CGROUPS / "htcondor") for p in _below(base)],
            "mounts": [line for line in lines("/proc/self/mounts") if str(EXECUTE) in line],
            "scratch": [str(p) for p in EXECUTE.glob("*")],
            "ledger": [str(p) for p in ledger.glob("*")] if ledger.exists() else [],
        }


def cgroup_of(pid: int) -> Path:
    """The directory of a process's cgroup."""
    return CGROUPS / Path(f"/proc/{pid}/cgroup").read_text().strip().partition("::/")[2]


def lines(path: str) -> list[str]:
    """The lines of a text file."""
    return Path(path).read_text().splitlines()


def owner(process: Path) -> int:
    try:
        return process.stat().st_uid
    except OSError:  # it is gone
        return -1


def command(process: Path) -> str:
    try:
        return (process / "cmdline").read_text().replace("\0", " ").strip()
    except OSError:
        return ""


def eventually(what: str, check: Callable[[], Any], more: Callable[[], str] = str) -> Any:
    """The first true value of ``check()``; fails with ``what`` and ``more()`` when there is none in time."""
    end = time.monotonic() + PATIENCE
    while not (value := check()):
        assert time.monotonic() < end, f"after {PATIENCE:.0f} s still not: {what}\n{more()}"
        time.sleep(0.05)
    return value


def ad(script: str, **attributes: object) -> str:
    """The ad of a job that runs ``script``."""
    quoted = script.replace("'", "''")
    values = {"Cmd": "/bin/sh", "Arguments": f"-c '{quoted}'", "Owner": JOB_USER, "JobUniverse": 5}
    return "".join(f"{k} = {json.dumps(v)}\n" for k, v in {**values, **attributes}.items())


def _below(cgroup: Path) -> list[Path]:
    """The cgroups in a cgroup, which may vanish meanwhile."""
    try:
        return [p for p in cgroup.iterdir() if p.is_dir()]
    except FileNotFoundError:
        return []
