"""Watching one running job: its end, requests from outside, and updates of its ad, in one loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, TypeVar, assert_never

from condor_starter import report
from condor_starter.communicators.base import Ask, Communicator, Request
from condor_starter.isolation.boxplan import BoxExit
from condor_starter.job import Blame, Hold, JobError, JobSpec
from condor_starter.knobs import Knobs
from condor_starter.log import StarterLog
from condor_starter.procd.client import ProcdError
from condor_starter.runner import Runner

T = TypeVar("T")

UPDATE_SECONDS = 60.0
"""The longest that the other side may take over an update; the job goes on without it."""

PROCD_SECONDS = 35.0
"""procd reports what is not dead 30 s after a kill: it knows more about it than we do, so it comes first."""

_HARD = (Ask.VACATE_FAST, Ask.LOST)
_ENDS = (Ask.VACATE_SOFT, Ask.REMOVE, Ask.HOLD, *_HARD)


class Stopped(Exception):
    """A request ended the job before it ran, or while its files travelled."""

    def __init__(self, request: Request) -> None:
        super().__init__(request.reason)
        self.request = request


class Watch:
    """One job from exec to exit. ``ended_by`` is the request that ended it, if one did."""

    def __init__(
        self, runner: Runner, comm: Communicator, log: StarterLog, spec: JobSpec, knobs: Knobs
    ) -> None:
        self.ended_by: Request | None = None
        self.tally = report.Tally()
        self._runner = runner
        self._comm = comm
        self._log = log
        self._spec = spec
        self._knobs = knobs
        self._pid = 0
        self._cgroup = False
        self._started_at = 0.0
        self._start = time.monotonic()
        self._suspended = False
        self._next_update = self._start + knobs.number("STARTER_INITIAL_UPDATE_INTERVAL")
        self._kill_at: float | None = None  # when a soft request turns into SIGKILL
        self._give_up_at: float | None = None  # when a kill has failed
        self.vacate_seconds = knobs.number("MACHINEMAXVACATETIME")

    def began(self, pid: int, started_at: float, cgroup: bool) -> None:
        """The job runs: its pid as the host sees it, since when (wall clock), whether a cgroup limits it."""
        self._pid, self._started_at, self._cgroup = pid, started_at, cgroup
        self._start = time.monotonic() - max(0.0, report.wall_clock() - started_at)

    async def until_end(self) -> BoxExit:
        """Wait until everything in the box is dead, doing what is asked meanwhile.

        Raises JobError when the box cannot be killed, and what the runner raises.
        """
        exit_ = asyncio.ensure_future(self._runner.wait())
        asked = asyncio.ensure_future(self._comm.requests.get())
        try:
            while True:
                await asyncio.wait(
                    {exit_, asked}, timeout=self._timeout(), return_when=asyncio.FIRST_COMPLETED
                )
                if exit_.done():
                    return exit_.result()
                if asked.done():
                    await self._obey(asked.result())
                    asked = asyncio.ensure_future(self._comm.requests.get())
                await self._due(time.monotonic())
        finally:
            exit_.cancel()
            asked.cancel()

    def _timeout(self) -> float:
        marks = [t for t in (self._next_update, self._kill_at, self._give_up_at) if t is not None]
        return max(0.0, min(marks) - time.monotonic())

    async def _due(self, now: float) -> None:
        if self._give_up_at is not None and now >= self._give_up_at:
            text = f"Job {self._spec.id} has processes that do not end when they are killed."
            raise JobError(Hold.STARTER_ERROR, 0, text, Blame.SYSTEM)
        if self._kill_at is not None and now >= self._kill_at:
            self._log.say(f"Job {self._spec.id} has not ended after its kill signal: killing it")
            await self._kill()
        if now >= self._next_update:
            self._next_update = now + max(1.0, self._knobs.number("STARTER_UPDATE_INTERVAL"))
            await self.update()

    # -- requests ---------------------------------------------------------------------------------

    async def _obey(self, request: Request) -> None:
        self._log.say(f"Request: {request.ask.value} {request.reason}".rstrip())
        try:
            match request.ask:
                case Ask.SUSPEND:
                    await self._suspend()
                case Ask.CONTINUE:
                    await self._continue()
                # The startd says the same for condor_rm, condor_vacate_job and preemption, and for all of
                # them HTCondor's starter sends RemoveKillSig where the job has one, else KillSig.
                case Ask.VACATE_SOFT | Ask.REMOVE:
                    await self._end(request, self._spec.remove_kill_sig)
                case Ask.HOLD:
                    await self._end(request, self._spec.hold_kill_sig)
                case Ask.VACATE_FAST | Ask.LOST:
                    await self._end(request, 9)
                case _:
                    assert_never(request.ask)
        except ProcdError as e:  # it may have ended in this very moment; if not, the deadlines go on
            self._log.say(f"Request {request.ask.value} failed at {e.step}: {e.text}")

    async def _suspend(self) -> None:
        if self._suspended or self.ended_by is not None:
            return
        await self._runner.freeze()
        self._suspended = True
        self._log.say("Suspended all jobs.")
        await self.update()

    async def _continue(self) -> None:
        if not self._suspended:
            return
        await self._runner.thaw()
        self._suspended = False
        self._log.say("Continued all jobs.")
        if self.ended_by is None:
            await self.update()

    async def _end(self, request: Request, number: int) -> None:
        """End the job: gently once, then only harder."""
        hard = request.ask in _HARD or number in (9, 19)  # SIGKILL and SIGSTOP are no way to ask
        if self.ended_by is None or (request.ask in _HARD and self.ended_by.ask not in _HARD):
            self.ended_by = request
        elif not hard:
            return
        if hard:
            await self._kill()
            return
        self._kill_at = time.monotonic() + self.vacate_seconds
        if self._suspended:
            await self._continue()
        await self._runner.signal(number)

    async def _kill(self) -> None:
        self._kill_at = None
        if self._give_up_at is None:
            self._give_up_at = time.monotonic() + self._knobs.number("KILLING_TIMEOUT") + PROCD_SECONDS
        await self._runner.kill()

    # -- updates ----------------------------------------------------------------------------------

    async def update(self) -> None:
        """Take a sample and send it. A source that does not listen does not stop the job."""
        try:
            self.tally.add(await self._runner.usage(), time.monotonic())
        except ProcdError as e:
            self._log.say(f"No usage sample: {e.text}")
        ad = self.state_ad()
        try:
            await asyncio.wait_for(self._comm.update(ad), UPDATE_SECONDS)
        except TimeoutError:
            self._log.say(f"The update was not taken within {UPDATE_SECONDS:.0f} s")
        except JobError as e:
            self._log.say(f"The update failed: {e.text}")

    def state_ad(self) -> Any:
        """The update ad of a running job."""
        now = time.monotonic()
        ad = report.usage_ad(self.tally, now - self._start, now)
        return report.running_ad(
            ad, pid=self._pid, started_at=self._started_at, suspended=self._suspended, cgroup=self._cgroup
        )


async def unless_stopped(
    work: Coroutine[Any, Any, T], requests: asyncio.Queue[Request], *, soft: bool = True
) -> T:
    """Do ``work`` unless a request ends the job meanwhile; then ``work`` is cancelled and Stopped raised.

    ``soft=False``: only a request that is in a hurry does that. Suspend and continue have nothing to act on.
    """
    ends = _ENDS if soft else _HARD
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            asked = asyncio.ensure_future(requests.get())
            await asyncio.wait({task, asked}, return_when=asyncio.FIRST_COMPLETED)
            if not asked.cancel() and asked.result().ask in ends:
                raise Stopped(asked.result())
        return task.result()
    finally:
        if task.cancel():
            await asyncio.wait({task}, timeout=UPDATE_SECONDS)
