"""The line to the machine's procd, which outlives procd: it reconnects, and no request is lost.

:class:`ProcdLink` has the methods of :class:`~condor_starter.procd.client.Procd`, so that a job's coroutine
need not know. procd keeps its boxes in the ledger: when it dies and the next one starts, a job has lost
nothing, and whoever waits for its exit goes on waiting.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from condor_starter.isolation.boxplan import BoxExit, BoxPlan, Usage
from condor_starter.log import StarterLog
from condor_starter.procd.client import BoxInfo, Procd, ProcdError, ProcdGone, Started
from condor_starter.sandbox.worker import SandboxWorker

T = TypeVar("T")

FIRST_PAUSE = 0.02  # seconds between attempts to connect, doubled each time ...
LONGEST_PAUSE = 2.0  # ... up to this
HALF_STARTED_SECONDS = 1.0  # for a box that was being built when procd died, to show whether it lives
PATIENCE = 60.0  # seconds that one request waits for the next procd before it fails with ProcdGone


class ProcdLink(Procd):
    """A connection to the procd that listens at ``path``, whichever process that is at the moment."""

    def __init__(self, path: str, log: StarterLog) -> None:  # no super().__init__: there is no socket yet
        self._path = path
        self._log = log
        self._procd: Procd | None = None
        self._up = asyncio.Event()
        self._states: dict[str, str] = {}  # box -> state, as of the last hello and what was asked since
        self._keeper: asyncio.Task[None] | None = None
        self.facts: dict[str, Any] = {}
        self.reconnected = 0
        self.gone = asyncio.Event()  # set by close() only

    async def open(self, patience: float = PATIENCE) -> list[BoxInfo]:
        """Connect for the first time; returns procd's boxes. Raises ProcdGone after ``patience`` seconds."""
        boxes = await asyncio.wait_for(self._connect(), patience)
        self._keeper = asyncio.create_task(self._keep(), name="procd link")
        return boxes

    @property
    def up(self) -> bool:
        """True while procd is there."""
        return self._up.is_set()

    async def hello(self) -> tuple[dict[str, Any], list[BoxInfo]]:
        return await self._ask(lambda p: p.hello())

    def expect(self) -> None:
        if self._procd is not None and self.up:
            self._procd.expect()

    async def make(self, box: str, kind: str, execute: str, scratch: str, cgroup: str) -> str:
        first = True

        async def make(procd: Procd) -> str:
            nonlocal first
            if not first and box in self._states:  # the procd that died had made it, or half of it
                await procd.destroy(box)
            first = False
            return await procd.make(box, kind, execute, scratch, cgroup)

        path = await self._ask(make)
        self._states[box] = "made"
        return path

    async def start(self, plan: BoxPlan, fds: Sequence[int] = ()) -> Started:
        first = True

        async def start(procd: Procd) -> Started:
            nonlocal first
            if not first and self._states.get(plan.box) not in (None, "made"):
                return await self._half_started(plan.box)
            first = False
            return await procd.start(plan, fds)

        started = await self._ask(start)
        self._states[plan.box] = "running"
        return started

    async def _half_started(self, box: str) -> Started:
        """A box that a dying procd was building: its init goes on alone, or died with procd, and at once."""
        try:
            async with asyncio.timeout(HALF_STARTED_SECONDS):
                ended = await self.exit(box)
        except TimeoutError:
            ended = None
        if ended and not ended.begun and not ended.killed:
            text = "condor_starter_procd died while it built the box; the job did not run"
            raise ProcdError("clone", errno.ESRCH, text, "system")
        return Started(0, ("condor_starter_procd was restarted while it built this box",), "")

    async def exit(self, box: str) -> BoxExit:
        """Wait for the end of ``box``, through any number of procds. ProcdError if the next one lost it."""
        while True:
            procd = await self._current(None)
            if box not in self._states:
                raise ProcdError("run", errno.ENOENT, f"condor_starter_procd lost box {box}", "system")
            try:
                return await procd.exit(box)
            except ProcdGone:
                await self._dropped(procd)

    async def signal(self, box: str, signal: int) -> None:
        await self._ask(lambda p: p.signal(box, signal))

    async def freeze(self, box: str) -> None:
        await self._ask(lambda p: p.freeze(box))

    async def thaw(self, box: str) -> None:
        await self._ask(lambda p: p.thaw(box))

    async def kill(self, box: str) -> None:
        await self._ask(lambda p: p.kill(box))

    async def usage(self, box: str) -> Usage:
        return await self._ask(lambda p: p.usage(box))

    async def worker(self, box: str) -> SandboxWorker:
        return await self._ask(lambda p: p.worker(box))

    async def destroy(self, box: str) -> None:
        """Remove the box; one that a dying procd had removed already is removed."""
        tries = 0

        async def destroy(procd: Procd) -> None:
            nonlocal tries
            tries += 1
            if tries == 1 or box in self._states:
                await procd.destroy(box)

        await self._ask(destroy)
        self._states.pop(box, None)

    async def sweep(self) -> list[dict[str, Any]]:
        return await self._ask(lambda p: p.sweep())

    async def close(self) -> None:
        """Let go of procd; its boxes stay as they are."""
        self.gone.set()
        if self._keeper:
            self._keeper.cancel()
        if self._procd:
            await self._procd.close()

    async def _ask(self, request: Callable[[Procd], Awaitable[T]]) -> T:
        """Put ``request`` to procd, and to the next if that one dies. ProcdGone after PATIENCE seconds."""
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while True:
            procd = await self._current(deadline)
            try:
                return await request(procd)
            except ProcdGone:
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await self._dropped(procd)

    async def _current(self, deadline: float | None) -> Procd:
        try:
            async with asyncio.timeout_at(deadline):
                await self._up.wait()
        except TimeoutError:
            raise ProcdGone(f"no condor_starter_procd at {self._path} for {PATIENCE:.0f} seconds") from None
        assert self._procd is not None
        return self._procd

    async def _dropped(self, procd: Procd) -> None:
        """``procd`` failed: nobody may take it for the current one, unless it is only slow to read."""
        if not procd.gone.is_set():
            await asyncio.sleep(1.0)
        elif procd is self._procd:
            self._up.clear()

    async def _keep(self) -> None:
        while True:
            assert self._procd is not None
            await self._procd.gone.wait()
            self._up.clear()
            self._log.say("condor_starter_procd is gone; its boxes are safe, waiting for the next one")
            await self._procd.close()
            boxes = await self._connect()
            self.reconnected += 1
            self._log.say("Connected to condor_starter_procd again", boxes=len(boxes))

    async def _connect(self) -> list[BoxInfo]:
        pause = FIRST_PAUSE
        while True:
            try:
                return await self._meet(await Procd.connect(self._path))
            except ProcdGone:
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    async def _meet(self, procd: Procd) -> list[BoxInfo]:
        try:
            facts, boxes = await procd.hello()
        except BaseException:
            await procd.close()
            raise
        self._procd = procd
        self.facts.clear()  # in place: whoever holds them sees what the new procd can do
        self.facts.update(facts)
        self._states = {b.box: b.state for b in boxes}
        self._up.set()
        return boxes
