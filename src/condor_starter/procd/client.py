"""procd as the unprivileged side sees it: an asyncio client of one procd, ours or the machine's.

Import this outside procd only (it needs asyncio, which procd must not load).
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from condor_starter.isolation.boxplan import BoxExit, BoxPlan, Usage, from_wire, to_wire
from condor_starter.procd import protocol
from condor_starter.procd.worker_client import SandboxWorker

_MAIN = Path(__file__).with_name("main.py")


class ProcdError(Exception):
    """procd refused or failed: at which plan step, with which errno, in which words, and who is to blame."""

    def __init__(self, step: str, errno: int, text: str, blame: str) -> None:
        super().__init__(text)
        self.step = step
        self.errno = errno
        self.text = text
        self.blame = blame  # "user", "site" or "system"


class ProcdGone(ConnectionError):
    """procd is not there, or went away; running boxes are safe with the next one."""


@dataclass(frozen=True, slots=True)
class Started:
    """A started box."""

    pid: int  # of the box's init as the host sees it; 0 for a container
    notes: tuple[str, ...]  # what could not be had here, in words: for the log and the ad
    cgroup_parent: str  # where a container's cgroup goes, e.g. "/htcondor/_slot1@h"; "" without a cgroup


@dataclass(frozen=True, slots=True)
class BoxInfo:
    """A box as procd knows it when a client says hello."""

    box: str
    state: str  # made, running, exited
    exit: BoxExit | None


class Procd:
    """One connection. Methods raise ProcdError for a refusal and ProcdGone when the connection is lost."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._next = 0
        self._replies: dict[int, asyncio.Future[tuple[dict[str, Any], list[int]]]] = {}
        self._exits: dict[str, asyncio.Future[BoxExit]] = {}
        self._pid: int | None = None
        self.gone = asyncio.Event()
        self._loop.add_reader(sock, self._readable)

    @classmethod
    async def spawn(cls, settings: dict[str, str]) -> Procd:
        """Start a private procd as our child, with our ids; ``settings`` override its configuration file.

        Call it while still root if boxes for other users are wanted, drop privileges afterwards.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            theirs.set_inheritable(True)
            argv = [sys.executable, "-I", "-S", str(_MAIN), "--private", str(theirs.fileno())]
            argv += [f"--set={k}={v}" for k, v in settings.items()]
            env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
            pid = os.posix_spawn(sys.executable, argv, env)  # noqa: ASYNC221  (spawns, does not wait)
        procd = cls(ours)
        procd.owns(pid)
        return procd

    @classmethod
    async def connect(cls, path: str) -> Procd:
        """Connect to the machine's procd at ``path``; raises ProcdGone when nobody listens there."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        try:
            sock.connect(path)
        except OSError as e:
            sock.close()
            raise ProcdGone(f"no condor_starter_procd at {path}: {e.strerror}; start it first") from e
        return cls(sock)

    async def hello(self) -> tuple[dict[str, Any], list[BoxInfo]]:
        """procd's facts about this machine (see procd.server.facts) and its boxes."""
        reply, _ = await self._call("hello")
        boxes = []
        for b in reply["boxes"]:
            ended = from_wire(BoxExit, b["exit"], "exit") if b["exit"] else None
            boxes.append(BoxInfo(b["box"], b["state"], ended))
            if ended:
                self._exited(ended)
        return reply["facts"], boxes

    def expect(self) -> None:
        """A job is coming: procd can get ready. Only a hint: never waits, never raises."""
        if not self.gone.is_set():
            try:
                protocol.send(self._sock, {"op": "expect"})
            except OSError:
                pass  # busy, or gone: the next request finds out

    async def make(self, box: str, kind: str, execute: str, scratch: str, cgroup: str) -> str:
        """Open the ledger entry and make the scratch directory; returns its path, writable by us."""
        reply, _ = await self._call(
            "make", box=box, kind=kind, execute=execute, scratch=scratch, cgroup=cgroup
        )
        return str(reply["path"])

    async def start(self, plan: BoxPlan, fds: Sequence[int] = ()) -> Started:
        """Build the box and start the job. The scratch directory is the job user's from now on.

        Returns once the job has been executed; raises ProcdError when a step failed (its ``step`` says
        which: "stdin", "stdout", "stderr", "cwd", "exec" are the user's, others the site's or system's).
        """
        reply, _ = await self._call("start", fds=fds, plan=to_wire(plan))
        return Started(reply["pid"], tuple(reply["notes"]), reply["cgroup_parent"])

    async def exit(self, box: str) -> BoxExit:
        """Wait until everything in ``box`` is dead."""
        return await asyncio.shield(self._exit_future(box))

    async def signal(self, box: str, signal: int) -> None:
        """Send ``signal`` to the job's main process."""
        await self._call("signal", box=box, signal=signal)

    async def freeze(self, box: str) -> None:
        await self._call("freeze", box=box)

    async def thaw(self, box: str) -> None:
        await self._call("thaw", box=box)

    async def kill(self, box: str) -> None:
        """SIGKILL everything in the box; :meth:`exit` tells when it is empty."""
        await self._call("kill", box=box)

    async def usage(self, box: str) -> Usage:
        reply, _ = await self._call("usage", box=box)
        usage: Usage = from_wire(Usage, reply["usage"], "usage")
        return usage

    async def worker(self, box: str) -> SandboxWorker:
        """A sandbox worker for this box's scratch directory; close it when done."""
        _, fds = await self._call("worker", box=box)
        return SandboxWorker(socket.socket(fileno=fds[0]))

    async def destroy(self, box: str) -> None:
        """Remove the box: cgroup, scratch directory, ledger entry."""
        await self._call("destroy", box=box)
        self._exits.pop(box, None)

    async def sweep(self) -> list[dict[str, Any]]:
        """Undo every box that nobody runs; returns the terminal records."""
        reply, _ = await self._call("sweep")
        return list(reply["boxes"])

    async def close(self) -> None:
        """Close the connection; a private procd ends with it (wait for it, so that nothing is left)."""
        self._lost("closed")
        self._sock.close()
        if self._pid is not None:
            pid, self._pid = self._pid, None
            await asyncio.to_thread(os.waitpid, pid, 0)

    def owns(self, pid: int) -> None:
        """This procd is our child: :meth:`close` waits for it."""
        self._pid = pid

    async def _call(self, op: str, fds: Sequence[int] = (), **args: Any) -> tuple[dict[str, Any], list[int]]:
        if self.gone.is_set():
            raise ProcdGone("condor_starter_procd is gone")
        self._next += 1
        number = self._next
        reply: asyncio.Future[tuple[dict[str, Any], list[int]]] = self._loop.create_future()
        self._replies[number] = reply
        try:
            await self._send({"id": number, "op": op, **args}, fds)
            message, got = await reply
        finally:
            self._replies.pop(number, None)
        if error := message.get("error"):
            raise ProcdError(error["step"], error["errno"], error["text"], error["blame"])
        return message, got

    async def _send(self, message: dict[str, Any], fds: Sequence[int]) -> None:
        for _ in range(200):  # procd reads all the time; ten seconds of a full buffer is a dead procd
            try:
                protocol.send(self._sock, message, list(fds))
                return
            except BlockingIOError:
                await asyncio.sleep(0.05)
            except OSError as e:
                self._lost(str(e))
                raise ProcdGone("condor_starter_procd is gone") from e
        raise ProcdGone("condor_starter_procd does not read its socket")

    def _readable(self) -> None:
        try:
            got = protocol.receive(self._sock)
        except BlockingIOError:
            return
        except (OSError, ValueError) as e:
            self._lost(str(e))
            return
        if got is None:
            self._lost("end of stream")
            return
        message, fds = got
        if message.get("event") == "exit":
            self._exited(from_wire(BoxExit, message["exit"], "exit"))
        elif (future := self._replies.get(message.get("id", 0))) and not future.done():
            future.set_result((message, fds))
        else:
            for fd in fds:
                os.close(fd)

    def _exit_future(self, box: str) -> asyncio.Future[BoxExit]:
        future = self._exits.get(box)
        if future is None:
            future = self._exits[box] = self._loop.create_future()
            if self.gone.is_set():
                future.set_exception(ProcdGone("condor_starter_procd is gone"))
        return future

    def _exited(self, ended: BoxExit) -> None:
        future = self._exit_future(ended.box)
        if not future.done():
            future.set_result(ended)

    def _lost(self, why: str) -> None:
        if self.gone.is_set():
            return
        self.gone.set()
        self._loop.remove_reader(self._sock)
        error = ProcdGone(f"condor_starter_procd is gone: {why}")
        futures: list[asyncio.Future[Any]] = [*self._replies.values(), *self._exits.values()]
        for future in futures:
            if not future.done():
                future.set_exception(error)
                future.exception()  # retrieved: an exit that nobody waits for is not a warning
