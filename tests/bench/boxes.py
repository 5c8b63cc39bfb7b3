"""A procd to measure, and its clients: the asyncio one that condor_starterd uses, and a blocking one."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import pwd
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.machine import MEMORY, NAME, PIDS, SHARES, Place
from condor_starter.isolation.boxplan import BoxExit, BoxPlan, Identity, Limits, from_wire, to_wire
from condor_starter.procd import main as procd_main
from condor_starter.procd import protocol
from condor_starter.procd.client import Procd

NAMESPACES = ("pid", "mnt", "ipc", "uts", "net")
WAIT = 60.0
_numbers = itertools.count(1)


class Procds:
    """One private procd with directories and a base cgroup of its own; make it with :func:`blocking`."""

    def __init__(self, place: Place, execute: Path) -> None:
        number = next(_numbers)
        self.execute = execute / f"execute-{number}"
        self.execute.mkdir(mode=0o755)
        self.cgroup = f"{NAME}-{number}"
        self.settings = {
            "execute": str(self.execute),
            "run": str(place.run / f"procd-{number}"),
            "client": "0",
            "base_cgroup": self.cgroup,
        }

    def plan(self, argv: Sequence[str], **fields: object) -> BoxPlan:
        """The box of the table: five namespaces, three limits, private /tmp and /var/tmp."""
        name = f"b{next(_numbers)}"
        who = pwd.getpwnam("nobody")
        wish = BoxPlan(
            box=name,
            cgroup=name,
            kind="box",
            execute=str(self.execute),
            scratch=f"dir_{name}",
            identity=Identity(who.pw_uid, who.pw_gid, (), "nobody"),
            argv=tuple(argv),
            env=("PATH=/usr/bin:/bin",),
            cwd=f"{self.execute}/dir_{name}",
            namespaces=NAMESPACES,
            private_dirs=("/tmp", "/var/tmp"),
            limits=Limits(memory=MEMORY, cpu_shares=SHARES, pids=PIDS),
        )
        return wish._replace(**fields)  # type: ignore[arg-type]


class Blocking:
    """A client without an event loop, one request at a time: as little client as there can be."""

    def __init__(self, procds: Procds, sock: socket.socket, pid: int) -> None:
        self.procds = procds
        self.pid = pid
        self.sock = sock
        self._number = 0
        self._exits: dict[str, dict[str, Any]] = {}

    def call(self, op: str, **args: Any) -> dict[str, Any]:
        """One request and its reply. Raises RuntimeError for a refusal."""
        self._number += 1
        protocol.send(self.sock, {"id": self._number, "op": op, **args})
        while True:
            message = self.receive()
            if message.get("id") == self._number:
                if error := message.get("error"):
                    raise RuntimeError(f"{op}: {error}")
                return message

    def receive(self) -> dict[str, Any]:
        """The next message; exits are also kept for :meth:`exit`."""
        got = protocol.receive(self.sock)
        if got is None:
            raise RuntimeError("procd is gone")
        message, _ = got
        if message.get("event") == "exit":
            self._exits[message["exit"]["box"]] = message["exit"]
        return message

    def begin(self, plan: BoxPlan) -> int:
        """Make and start; the init's pid."""
        self.call(
            "make",
            box=plan.box,
            kind=plan.kind,
            execute=plan.execute,
            scratch=plan.scratch,
            cgroup=plan.cgroup,
        )
        return int(self.call("start", plan=to_wire(plan))["pid"])

    def exit(self, box: str) -> BoxExit:
        """Wait for the end of ``box``."""
        while box not in self._exits:
            self.receive()
        ended: BoxExit = from_wire(BoxExit, self._exits.pop(box), "exit")
        return ended

    def cycle(self, plan: BoxPlan) -> BoxExit:
        """From nothing to nothing."""
        self.begin(plan)
        ended = self.exit(plan.box)
        self.call("destroy", box=plan.box)
        return ended


@contextlib.contextmanager
def blocking(place: Place, execute: Path) -> Iterator[Blocking]:
    """A private procd and its blocking client."""
    procds = Procds(place, execute)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(WAIT)
    with ours, theirs:
        words = [sys.executable, "-I", "-S", procd_main.__file__, "--private", str(theirs.fileno())]
        words += [f"--set={k}={v}" for k, v in procds.settings.items()]
        process = subprocess.Popen(words, pass_fds=[theirs.fileno()], env={"PATH": "/usr/bin:/bin"})
        theirs.close()
        try:
            client = Blocking(procds, ours, process.pid)
            client.call("hello")
            yield client
        finally:
            ours.close()
            process.wait(WAIT)


class Looping:
    """The asyncio client on a loop of its own, which runs only while it is measured."""

    def __init__(self, procds: Procds, runner: asyncio.Runner, procd: Procd) -> None:
        self.procds = procds
        self._runner = runner
        self._procd = procd

    def cycle(self, plan: BoxPlan) -> BoxExit:
        """From nothing to nothing."""
        return self._runner.run(self._cycle(plan))

    async def _cycle(self, plan: BoxPlan) -> BoxExit:
        await self._procd.make(plan.box, plan.kind, plan.execute, plan.scratch, plan.cgroup)
        await self._procd.start(plan)
        ended = await asyncio.wait_for(self._procd.exit(plan.box), WAIT)
        await self._procd.destroy(plan.box)
        return ended


@contextlib.contextmanager
def looping(place: Place, execute: Path) -> Iterator[Looping]:
    """A private procd and its asyncio client."""
    procds = Procds(place, execute)
    with asyncio.Runner() as runner:
        procd = runner.run(_connected(procds.settings))
        try:
            yield Looping(procds, runner, procd)
        finally:
            runner.run(procd.close())


async def _connected(settings: dict[str, str]) -> Procd:
    procd = await Procd.spawn(settings)
    await procd.hello()
    return procd


def descendants(root: int) -> list[int]:
    """The processes beneath ``root``, itself not included."""
    found: list[int] = []
    todo = [root]
    while todo:
        pid = todo.pop()
        with contextlib.suppress(OSError):
            todo += [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        if pid != root:
            found.append(pid)
    return found


def name_of(pid: int) -> str:
    """The process's name; "" when it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
