"""A real pool, driven from outside: start it, submit jobs, wait by their event logs, look at what is left.

``tests/env/pool.sh`` makes and boxes the pool; this is its handle for tests and benchmarks. Every wait is
bounded, and what fails says what the pool's own logs say.
"""

from __future__ import annotations

import contextlib
import enum
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

SCRIPT = Path(__file__).parents[1] / "env" / "pool.sh"
USERS = {"alice": 2001, "bob": 2002}
INSTALL_TIMEOUT = 900.0  # seconds: a first start makes the tree
COMMAND_TIMEOUT = 60.0
EVENT_TIMEOUT = 60.0
_PROCD = "condor_starter/procd/main.py"


class Starter(enum.StrEnum):
    """Which condor_starter the pool's startd runs (POOL_STARTER of pool.sh)."""

    DAEMON = "daemon"  # our thin client in front of condor_starterd and condor_starter_procd
    DIRECT = "direct"  # our condor_starter doing all the work in its own process
    GENUINE = "genuine"  # HTCondor's own: shows that the tests are right


class Kind(enum.IntEnum):
    """Event numbers of the user log (HTCondor's ULogEventNumber)."""

    SUBMIT = 0
    EXECUTE = 1
    EVICTED = 4
    TERMINATED = 5
    IMAGE_SIZE = 6
    SHADOW_EXCEPTION = 7
    ABORTED = 9
    SUSPENDED = 10
    UNSUSPENDED = 11
    HELD = 12
    RELEASED = 13
    STARTER_ERROR = 21
    TRANSFER = 40


class Event(NamedTuple):
    """One event of a user log; ``text`` is all its lines."""

    kind: int
    cluster: int
    proc: int
    text: str


class Process(NamedTuple):
    """One process of the pool, by the host's numbers."""

    pid: int
    parent: int
    uid: int
    command: str


def eventually(
    what: str, check: Callable[[], Any], timeout: float = EVENT_TIMEOUT, every: float = 0.05
) -> Any:
    """The first true value of ``check()``; fails with ``what`` when none comes within ``timeout`` seconds."""
    end = time.monotonic() + timeout
    while not (value := check()):
        assert time.monotonic() < end, f"after {timeout:.0f} s still not: {what}"
        time.sleep(every)
    return value


def parse_events(text: str) -> list[Event]:
    """The whole events of a user log; one that is still being written is left out."""
    head = re.compile(r"(\d{3}) \((\d+)\.(\d+)\.\d+\) ")
    chunks = text.split("\n...\n")[:-1]
    matches = ((head.match(chunk), chunk) for chunk in chunks)
    return [Event(int(m[1]), int(m[2]), int(m[3]), chunk) for m, chunk in matches if m]


@dataclass
class Job:
    """One submitted cluster, seen through its event log."""

    pool: Pool
    owner: str
    name: str
    cluster: int

    @property
    def log(self) -> Path:
        return self.pool.home(self.owner) / f"{self.name}.log"

    def output(self, suffix: str = "out") -> str:
        """What came back as ``<name>.<suffix>``."""
        return (self.pool.home(self.owner) / f"{self.name}.{suffix}").read_text()

    def events(self, *kinds: int) -> list[Event]:
        """The events so far, of the given kinds if any are given, oldest first."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return [e for e in parse_events(text) if not kinds or e.kind in kinds]

    def wait(self, *kinds: int, count: int = 1, timeout: float = EVENT_TIMEOUT) -> Event:
        """The ``count``-th event of one of these kinds."""

        def there() -> list[Event]:
            found = self.events(*kinds)
            return found if len(found) >= count else []

        names = ", ".join(Kind(k).name for k in kinds)
        try:
            found: list[Event] = eventually(f"{names} #{count} of job {self.cluster}", there, timeout)
            return found[count - 1]
        except AssertionError as e:
            raise AssertionError(f"{e}\n{self.pool.story(self)}") from None

    def ended(self, timeout: float = EVENT_TIMEOUT) -> Event:
        """How it ended: terminated, held or aborted."""
        return self.wait(Kind.TERMINATED, Kind.HELD, Kind.ABORTED, timeout=timeout)

    def ad(self) -> dict[str, Any]:
        """The job's ad as the schedd has it, in the queue or in the history (which comes a little later)."""

        def read() -> Any:
            for tool in ("condor_q", "condor_history"):
                text = self.pool.as_user(self.owner, tool, str(self.cluster), "-json").strip()
                if text and (ads := json.loads(text)):
                    return ads[0]
            return None

        return dict(eventually(f"job {self.cluster} in the queue or the history", read, 20))

    def do(self, tool: str, *options: str) -> str:
        """Run one of the user's tools on it: ``condor_rm``, ``condor_hold``, ..."""
        return self.pool.as_user(self.owner, tool, *options, str(self.cluster))


class Pool:
    """One running pool. Use as a context manager, or :meth:`start` and :meth:`stop`."""

    def __init__(self, starter: Starter, *, config: str = "", cgroups: str = "host") -> None:
        self.starter = starter
        self.top = Path(tempfile.mkdtemp(prefix="condor-starter-pool.", dir="/var/tmp"))
        self.group = self.top.name
        self.environment = os.environ | {
            "TOP": str(self.top),
            "BASE_GROUP": self.group,
            "POOL_STARTER": str(starter),
            "POOL_CONFIG": config,
            "POOL_OWNER": str(os.getpid()),
            "CGROUPS": cgroups,
        }
        self.jobs = 0

    def __enter__(self) -> Pool:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Bring the pool up; the first time on a machine this installs it. Raises RuntimeError."""
        done = self._script("start", timeout=INSTALL_TIMEOUT)
        if done.returncode:
            raise RuntimeError(f"pool.sh start: {done.stderr[-4000:]}")
        self.root = Path(self._script("root").stdout.strip())
        self.pid = int(self.root.parts[2])
        self.mounts = self._mounts()
        self.remember()

    def remember(self) -> None:
        """Take the processes that there are for the pool's own, not for a job's."""
        self.born = {p.pid for p in self.processes()}

    def stop(self) -> None:
        """End the pool; nothing of it stays. Raises RuntimeError when something does."""
        done = self._script("stop", timeout=60)
        shutil.rmtree(self.top, ignore_errors=True)
        if done.returncode:
            raise RuntimeError(f"pool.sh stop: {done.stderr[-4000:]}")

    def _script(self, *words: str, timeout: float = COMMAND_TIMEOUT) -> subprocess.CompletedProcess[str]:
        # A file for stderr, not a pipe: what runs on in the background keeps it open.
        with tempfile.TemporaryFile("w+") as said:
            done = subprocess.run(
                [SCRIPT, *words],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                timeout=timeout,
            )
            said.seek(0)
            return subprocess.CompletedProcess(done.args, done.returncode, done.stdout, said.read())

    # ------------------------------------------------------------ in the pool

    def as_root(self, *words: str) -> str:
        """Standard output of a command run as root in the pool; fails when the command does."""
        return self._checked("in", *words)

    def as_user(self, user: str, *words: str) -> str:
        """The same as an ordinary user, in that user's home."""
        return self._checked("as", user, *words)

    def _checked(self, *words: str) -> str:
        done = self._script(*words)
        assert done.returncode == 0, f"{' '.join(words)}: {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout

    def home(self, user: str) -> Path:
        """The host's path to a user's home in the pool."""
        return self.top / "home" / user

    def put(self, name: str, text: str, *, mode: int = 0o644, user: str = "alice") -> Path:
        """A file of this user's in their home."""
        path = self.home(user) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        os.chown(path, USERS[user], USERS[user])
        return path

    def submit(
        self,
        name: str,
        script: str = "",
        *lines: str,
        files: bool = True,
        count: int = 1,
        user: str = "alice",
    ) -> Job:
        """Submit ``script`` (a whole file with its ``#!`` line) by condor_submit as ``user``.

        Without a script ``lines`` name the executable. ``files``: should_transfer_files.
        """
        self.jobs += 1
        name = f"{name}{self.jobs}"
        if script:
            self.put(f"{name}.sh", script, mode=0o755, user=user)
        head = [
            f"executable = {name}.sh" if script else "",
            f"log = {name}.log",
            f"output = {name}.out",
            f"error = {name}.err",
            f"should_transfer_files = {'YES' if files else 'NO'}",
            "request_memory = 64M",
            "request_disk = 10M",
        ]
        self.put(f"{name}.sub", "\n".join([*head, *lines, f"queue {count}\n"]), user=user)
        said = self.as_user(user, "condor_submit", f"{name}.sub")
        match = re.search(r"submitted to cluster (\d+)", said)
        assert match, said
        return Job(self, user, name, int(match[1]))

    def forget_jobs(self) -> None:
        """Remove every job that is in the queue: held ones, and what a failed test left running."""
        if self.as_root("condor_q", "-allusers", "-af", "ClusterId").split():
            self.as_root("condor_rm", "-all")

    # ------------------------------------------------------------ what there is

    def processes(self) -> list[Process]:
        """Every process of the pool: pid 1 of its namespace and what descends from it, boxes included."""
        found = {p.pid: p for p in _all_processes()}
        mine = {self.pid}
        grown = True
        while grown:
            more = {p.pid for p in found.values() if p.parent in mine} - mine
            mine |= more
            grown = bool(more)
        return [found[pid] for pid in mine if pid in found]

    def job_processes(self, mark: str) -> list[Process]:
        """The pool's processes whose command line has ``mark`` in it and that are a job user's."""
        return [p for p in self.processes() if mark in p.command and p.uid in USERS.values()]

    def leftovers(self) -> list[str]:
        """What jobs left: processes, cgroups, scratch, mounts, ledger entries; [] when all is clean."""
        left = [f"process {p}" for p in self._strays()]
        left += [f"cgroup {g}" for g in self.cgroups()]
        left += [f"scratch {p}" for p in self.scratch().iterdir()]
        left += [f"mount {m}" for m in self._mounts() - self.mounts]
        ledger = self.root / "run/condor_starter/ledger"
        left += [f"ledger {p}" for p in (ledger.iterdir() if ledger.is_dir() else ())]
        return left

    def assert_clean(self, timeout: float = 15) -> None:
        """Fails when something of a job is still there after ``timeout`` seconds."""
        end = time.monotonic() + timeout
        while left := self.leftovers():
            assert time.monotonic() < end, "left behind:\n" + "\n".join(left) + self.story()
            time.sleep(0.1)

    def kill_leftovers(self) -> None:
        """SIGKILL to every process that does not belong to the pool."""
        for process in self._strays():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)

    def _strays(self) -> list[Process]:
        strays = [p for p in self.processes() if p.pid not in self.born]
        # a shadow is kept for the claim's next job; procd has one box's init ready, cloned ahead of time
        strays = [p for p in strays if not p.command.startswith("condor_shadow")]
        spares = [p for p in strays if p.parent in self.born and p.uid == 0 and _PROCD in p.command]
        return [p for p in strays if p not in spares[:1]]

    def scratch(self) -> Path:
        """The execute directory."""
        return self.top / "lib" / "execute"

    def cgroups(self) -> list[Path]:
        """The groups below the pool's base group, in every hierarchy."""
        with open("/proc/self/mounts") as table:
            mounts = [row.split()[1] for row in table if row.split()[2] in ("cgroup", "cgroup2")]
        bases = [Path(m) / self.group for m in mounts]
        return [d for b in bases for d in b.rglob("*") if d.is_dir()]

    def _mounts(self) -> set[str]:
        lines = Path(f"/proc/{self.pid}/mounts").read_text().splitlines()
        return {line.split()[1] for line in lines}

    def log(self, name: str) -> str:
        """One of the pool's logs, or "" if it is not there."""
        path = self.top / "log" / name
        return path.read_text(errors="replace") if path.exists() else ""

    def starter_logs(self) -> dict[str, str]:
        """StarterLog.<slot> by name."""
        return {p.name: self.log(p.name) for p in sorted((self.top / "log").glob("StarterLog.slot*"))}

    def story(self, job: Job | None = None) -> str:
        """The ends of the logs, for the message of a test that failed."""
        texts = self.starter_logs() | {n: self.log(n) for n in ("StarterLog", "ShadowLog", "StartLog")}
        texts |= {n: self.log(n) for n in ("starterd.out", "procd.out")}
        if job is not None:
            texts[job.log.name] = job.log.read_text(errors="replace") if job.log.exists() else "(none)"
        tails = ((name, "\n".join(text.splitlines()[-60:])) for name, text in texts.items() if text)
        return "\n".join(f"----- {name}\n{tail}" for name, tail in tails)


def _all_processes() -> Iterator[Process]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError):
                yield _process(int(entry.name))


def _process(pid: int) -> Process:
    status = Path(f"/proc/{pid}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    if fields["State"].startswith("Z"):
        raise ValueError("a zombie: dead, and its parent is about to know")
    command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return Process(pid, int(fields["PPid"]), int(fields["Uid"].split()[1]), command or fields["Name"])
