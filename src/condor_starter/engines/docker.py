"""One job in a container: procd's box around it, the engine inside.

The box has the cgroup with the limits, and the container's cgroup lies beneath it. So suspend, continue, kill
and usage are procd's, the same as for any job, and hold even if the engine hangs or dies. Where the engine
cannot put a container there (systemd's cgroup driver, a rootless engine) the engine does these itself.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from condor_starter.engines import owner
from condor_starter.engines.calls import ContainerState
from condor_starter.engines.engine import DockerEngine
from condor_starter.engines.events import Watch
from condor_starter.engines.streams import Pump
from condor_starter.isolation.boxplan import BoxExit, BoxPlan, Stdio, Usage
from condor_starter.isolation.docker import OWNER_LABEL, ContainerSpec, cannot_run, engine_failed, wait_status
from condor_starter.job import Hold, JobError
from condor_starter.procd.client import ProcdError, ProcdGone, Started
from condor_starter.runner import HasProcd
from condor_starter.sandbox.worker import SandboxWorker

__all__ = ["DockerEngine", "DockerRunner"]

GRACE = 15.0
"""Seconds that the engine has to notice a death, and that a killed box has to become empty."""

SIGNAL_PATIENCE = 5.0
"""Seconds that a gentle signal may take."""

DRAIN = 30.0
"""Seconds without progress after which the rest of a dead container's output is given up."""

_ENDING = frozenset({signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGKILL, signal.SIGTERM})

_STREAMS = {
    "stdin": (Hold.UNABLE_TO_OPEN_INPUT, "standard input", os.O_RDONLY),
    "stdout": (Hold.UNABLE_TO_OPEN_OUTPUT, "standard output", os.O_WRONLY | os.O_CREAT),
    "stderr": (Hold.UNABLE_TO_OPEN_OUTPUT, "standard error", os.O_WRONLY | os.O_CREAT),
}


class DockerRunner:
    """Implements :class:`condor_starter.runner.Runner` for a container.

    ``plan`` is a box of kind "container"; ``fds`` are what its Stdio.fd count. Stdio paths are names in the
    scratch directory. ``say`` takes lines for the StarterLog. Nothing here raises for a job that has ended.
    """

    def __init__(
        self,
        house: HasProcd,
        engine: DockerEngine,
        plan: BoxPlan,
        container: ContainerSpec,
        fds: Sequence[int] = (),
        say: Callable[[str], object] = lambda text: None,
    ) -> None:
        self._house = house
        self._engine = engine
        self._plan = plan
        self._container = container
        self._fds = fds
        self._say = say
        self._id = ""  # the engine's, once there is a container
        self._boxed = False  # the container's cgroup lies beneath the box's
        self._prepared = False  # the image is here
        self._called = False  # start() was: if not, an earlier process did
        self._boxing = False  # procd has started the box: it must be emptied before it can be destroyed
        self._runs = False  # the container was started
        self._killed = False
        self._signals: list[int] = []  # what we sent through the engine
        self._opened: list[int] = []  # descriptors that we own
        self._watch: Watch | None = None
        self._pump: Pump | None = None
        self._pumping: asyncio.Task[None] | None = None
        self._began = 0.0
        self._last = Usage()
        self._exit: BoxExit | None = None

    async def prepare(self) -> None:
        """Have the image here; may take long. :meth:`start` does it if nobody did."""
        if self._prepared:
            return
        for left in await self._engine.sweep():
            self._say(f"Removed container {left[:12]}, which a dead starter left")
        self._say(f"Looking for docker image {self._container.image}")
        await self._engine.need_image(self._container.image, self._container.pull)
        self._prepared = True

    async def start(self) -> Started:
        self._called = True
        await self.prepare()
        self._boxing = True  # before the answer is here: it may be cancelled in between
        try:
            started = await self._house.procd.start(self._plan, self._fds)
        except ProcdError:
            self._boxing = False
            raise
        parent = started.cgroup_parent if self._takes_our_cgroup() else ""
        self._boxed = bool(parent)
        if not parent:
            self._say(
                "The container's cgroup is the engine's own: suspend, kill and usage go through the engine"
            )
        labels = (*self._container.labels, (OWNER_LABEL, owner.mine()))
        spec = replace(self._container, cgroup_parent=parent, labels=labels)
        self._id = await self._engine.create(spec)
        self._say(f"Created container {self._container.name} ({self._id[:12]})")
        streams = await self._open_streams()
        sock = await self._engine.attach(self._id, self._container.stdin)
        self._pump = Pump(sock, *streams)
        self._pumping = asyncio.create_task(self._pump.run())
        self._watch = await self._engine.watch(self._id)
        await self._run()
        return started

    async def _run(self) -> None:
        """Start the container, unless it was to be killed by now: its box is gone then."""
        if not self._killed:
            await self._engine.start(self._id)
        if self._killed:
            await self._engine.remove(self._id)
            raise engine_failed("the container was not started", "it was to be killed")
        self._began = time.monotonic()
        self._runs = True

    async def wait(self) -> BoxExit:
        """How the container ended. After a start that failed: how its box did.

        Raises JobError when its end cannot be known, also for a container that an earlier process started:
        what it wrote since then is lost. Everything in the box is dead then, too.
        """
        if self._exit is None:
            try:
                self._exit = await (self._ended() if self._runs else self._not_run())
            except JobError:
                await self._empty()
                raise
        return self._exit

    async def signal(self, number: int) -> None:
        """A gentle signal goes through the engine. One that does not answer is told, not waited for: the kill
        that follows needs no engine."""
        self._signals.append(number)
        sending = asyncio.ensure_future(self._engine.signal(self._id, number))
        await asyncio.wait({sending}, timeout=SIGNAL_PATIENCE)
        if not sending.done():
            sending.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._say(f"The engine does not answer: signal {number} may be late")
        elif error := sending.exception():
            self._say(f"Signal {number} was not sent: {error}")

    async def kill(self) -> None:
        self._killed = True
        if not self._boxed and self._id:
            await self._engine.signal(self._id, signal.SIGKILL)
        else:
            await self._kill_box()

    async def freeze(self) -> None:
        if self._boxed:
            await self._house.procd.freeze(self._plan.box)
        else:
            await self._engine.pause(self._id)

    async def thaw(self) -> None:
        if self._boxed:
            await self._house.procd.thaw(self._plan.box)
        else:
            await self._engine.unpause(self._id)

    async def usage(self) -> Usage:
        if self._boxed:
            return await self._house.procd.usage(self._plan.box)
        if self._id and self._exit is None:
            try:
                self._last = await self._engine.usage(self._id)
            except JobError as e:
                self._say(e.text)
        return self._last

    async def close(self) -> None:
        """Remove the container, also one that was never started, and empty the box. Never raises."""
        if self._pumping is not None:
            self._pumping.cancel()
            await asyncio.gather(self._pumping, return_exceptions=True)
        if self._pump is not None:
            self._pump.close()
        while self._opened:
            os.close(self._opened.pop())
        self._engine.events.forget(self._id)
        try:
            await self._engine.remove_box(self._plan.box, self._container.name)
            if self._boxing:
                await self._empty()
        except (JobError, ProcdGone) as e:
            self._say(f"Container {self._container.name} is left to the next clean-up: {e}")

    # -- the end ------------------------------------------------------------------------------------

    async def _not_run(self) -> BoxExit:
        if not self._called:
            what = "the starter was restarted while the container ran"
            raise engine_failed(what, "its output is incomplete")
        if self._boxing:
            return await self._empty()
        return BoxExit(self._plan.box, -1, Usage(), 0, False, error="the container was not started")

    async def _ended(self) -> BoxExit:
        assert self._watch is not None
        assert self._pumping is not None
        await self._until_death(self._watch, self._pumping)
        duration = time.monotonic() - self._began
        state = await self._final_state(self._watch)
        await self._drained(DRAIN if self._watch.died else 1.0)
        ended = await self._empty()
        return ended._replace(
            status=signal.SIGKILL if state is None else wait_status(state.code),
            usage=ended.usage if self._boxed else self._last,
            duration_usec=int(duration * 1e6),
            oom=ended.oom or self._watch.oom or bool(state and state.oom_killed),
            killed=self._killed,
        )

    async def _until_death(self, watch: Watch, pumping: asyncio.Task[None]) -> None:
        """Until the container is dead; raises at once if its output cannot be taken."""
        died = asyncio.create_task(watch.ended.wait())
        emptied = asyncio.create_task(self._house.procd.exit(self._plan.box))
        waiting: set[asyncio.Task[Any]] = {died, emptied, pumping}
        try:
            while not died.done():
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if pumping in done:
                    self._check_output(pumping)
                if emptied in done:
                    emptied.result()
                    await asyncio.wait({died}, timeout=GRACE)
                    return
        finally:
            for task in (died, emptied):
                task.cancel()
            await asyncio.gather(died, emptied, return_exceptions=True)

    async def _final_state(self, watch: Watch) -> ContainerState | None:
        """The engine's account of the death; None if we killed the box and the engine has none to give."""
        if self._killed and not watch.died:
            return None
        if not watch.died:
            raise engine_failed("the engine went away while the container ran", "its events ended")
        foreign = [n for n in _without(watch.signals, self._signals) if n in _ENDING]
        if foreign and not self._killed:
            raise engine_failed(
                "the container was stopped from outside", f"signal {foreign[0]} by the engine"
            )
        state = await self._engine.state(self._id)
        if state is None and not self._killed:
            raise engine_failed("cannot inspect the exited container", "it is gone")
        if state is not None and state.error:
            raise cannot_run(state.error)
        return state

    async def _drained(self, patience: float) -> None:
        """Until the rest of the output is written; ``patience`` seconds without progress end it."""
        assert self._pumping is not None
        assert self._pump is not None
        while not self._pumping.done():
            before = self._pump.moved
            await asyncio.wait({self._pumping}, timeout=patience)
            if not self._pumping.done() and self._pump.moved == before:
                self._say(f"The job's output did not move for {patience:.0f} s: the rest is dropped")
                self._pumping.cancel()
                await asyncio.gather(self._pumping, return_exceptions=True)
                return
        self._check_output(self._pumping)

    def _check_output(self, pumping: asyncio.Task[None]) -> None:
        try:
            pumping.result()
        except ValueError as e:
            raise engine_failed("the container's output", str(e)) from e

    async def _empty(self) -> BoxExit:
        """Whatever ended the container: nothing of it lives on. Raises JobError for what cannot be killed."""
        if not self._boxed and self._id:
            await self._engine.remove(self._id)
        await self._kill_box()
        try:
            async with asyncio.timeout(GRACE):
                return await self._house.procd.exit(self._plan.box)
        except TimeoutError:
            raise engine_failed(
                "the container's processes cannot be killed", f"waited {GRACE:.0f} s"
            ) from None

    async def _kill_box(self) -> None:
        try:
            await self._house.procd.kill(self._plan.box)
        except ProcdError as e:
            if e.errno != errno.ESRCH:  # it is empty already
                raise

    # -- the beginning ------------------------------------------------------------------------------

    def _takes_our_cgroup(self) -> bool:
        return self._engine.facts is not None and self._engine.facts.takes_our_cgroup

    async def _open_streams(self) -> tuple[int | None, int | None, int | None]:
        plan = self._plan
        wanted = {"stdin": plan.stdin, "stdout": plan.stdout, "stderr": plan.stderr}
        worker = None
        if any(s.path is not None for s in wanted.values()):
            worker = await self._house.procd.worker(plan.box)
        try:
            fds = [await self._open_stream(worker, name, s) for name, s in wanted.items()]
        finally:
            if worker is not None:
                worker.close()
        return fds[0], fds[1], fds[2]

    async def _open_stream(self, worker: SandboxWorker | None, name: str, stream: Stdio) -> int | None:
        if stream.fd is not None:
            return self._fds[stream.fd]
        if stream.path is None or stream.path == "/dev/null" or worker is None:
            return None
        code, words, flags = _STREAMS[name]
        if name != "stdin":
            flags |= os.O_APPEND if stream.append else os.O_TRUNC
        try:
            fd = await worker.open(self._beneath(stream.path), flags, 0o644)
        except OSError as e:
            text = f"Failed to open '{stream.path}' as {words}: {e.strerror} (errno {e.errno})"
            raise JobError(code, e.errno or 0, text) from e
        self._opened.append(fd)
        return fd

    def _beneath(self, path: str) -> str:
        """The name for the worker: relative to the scratch directory, which is the container's cwd."""
        return os.path.relpath(path, self._plan.cwd) if os.path.isabs(path) else path


def _without(seen: Sequence[int], ours: Sequence[int]) -> list[int]:
    """What was seen beyond what we sent ourselves."""
    rest = list(seen)
    for number in ours:
        if number in rest:
            rest.remove(number)
    return rest
