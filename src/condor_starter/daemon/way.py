"""The way of one API job through the job's coroutine: from its start, or with a box of our predecessor's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from condor_starter.communicators.api import STREAMS, ApiCommunicator
from condor_starter.communicators.base import Ask, ClassAd, Outcome, Request
from condor_starter.daemon import engines
from condor_starter.daemon.job import Job, Phase
from condor_starter.daemon.link import ProcdLink
from condor_starter.daemon.store import KeptRecord
from condor_starter.job import Blame, JobSpec
from condor_starter.log import StarterLog
from condor_starter.procd.client import ProcdError, ProcdGone
from condor_starter.starter import House, adopt_job, run_job

ATTEMPTS = 20
"""How often a job is begun whose procd died before the job ran."""


@dataclass(slots=True)
class Way:
    """Everything that one job's task needs. ``changed`` and ``ended`` are called as the communicator says."""

    house: House
    link: ProcdLink
    job: Job
    ad: ClassAd
    spec: JobSpec
    record: KeptRecord
    scratch: str  # name of the scratch directory
    changed: Callable[[ClassAd | None], None]
    ended: Callable[[Outcome, ClassAd | None], None]
    _reconnected: int = 0  # the link's count when this attempt began
    _last: bool = False  # no other attempt follows this one
    _unsure: bool = False  # adopted, and not known to have run
    _again: bool = False  # the last attempt ended before the job ran, and is not the job's end

    def open_door(self) -> ApiCommunicator:
        """A fresh communicator: what is asked of the job arrives there from now on."""
        self.job.comm = ApiCommunicator(
            self.job.number,
            self.ad,
            self.spec,
            {name: self.job.journal.stream(name) for name in STREAMS},
            self.house.knobs.text("EXECUTE"),
            self.scratch,
            self.changed,
            self._ended,
        )
        return self.job.comm

    async def run(self, slots: asyncio.Semaphore) -> None:
        """From the ad to the end, once there is room."""
        async with slots:
            if self.job.phase is Phase.DONE:  # removed while it waited
                return
            log = StarterLog(self.job.journal.log())
            try:
                await engines.find(self.house, self.ad)
                for attempt in range(ATTEMPTS):
                    self._last = attempt == ATTEMPTS - 1
                    outcome = await self._attempt(log)
                    if not self._again:
                        break
                    log.say("The job has not run yet: it begins anew")
                    self.job.journal.note(begun=False)
            finally:
                log.close()
        self.ended(outcome, None)

    async def _attempt(self, log: StarterLog) -> Outcome:
        self.job.phase = Phase.STARTING
        self._reconnected = self.link.reconnected
        self.record.box, self.record.plan, self.record.exit = "", {}, None
        comm = self.job.comm if self.job.comm and not self.job.comm.closed else self.open_door()
        return await run_job(self.house, comm, log, self.record)

    def _ended(self, outcome: Outcome, final: ClassAd) -> None:
        self._again = self._never_ran(outcome)  # now: the record's stage says "reported" afterwards
        if not self._again:
            self.ended(outcome, final)

    def _never_ran(self, outcome: Outcome) -> bool:
        """True if procd (and we, perhaps) died before the job ran, and it is to be tried again."""
        error = outcome.error
        if self._last or self.job.asked or error is None or error.blame is not Blame.SYSTEM:
            return False
        if self._unsure:
            return stillborn(self.record.exit)
        return self.link.reconnected != self._reconnected and self.record.stage in ("accepted", "prepared")

    async def adopt(self, slots: asyncio.Semaphore) -> None:
        """From where our predecessor left it."""
        record = self.record
        self.job.phase = Phase.RUNNING
        # Our predecessor may have died between the job's start and saying so, or before the start.
        self._unsure = record.exit is None and record.stage in ("accepted", "prepared")
        if self._unsure:
            record.stage = "running"
        log = StarterLog(self.job.journal.log())
        comm = self.open_door()
        try:
            await engines.find(self.house, self.ad)
            await self._reopen_streams(comm, log)
            await self._restore_freeze(comm)
            outcome = await adopt_job(self.house, comm, log, record)
        finally:
            log.close()
        if self._again:
            self._unsure = False
            record.stage = "accepted"
            self.job.journal.note(begun=False)
            await self.run(slots)
        else:
            self.ended(outcome, None)

    async def _reopen_streams(self, comm: ApiCommunicator, log: StarterLog) -> None:
        try:
            worker = await self.link.worker(self.record.box)
        except (ProcdError, ProcdGone) as e:
            log.say(f"The job's output cannot be followed: {e}")
            return
        try:
            await comm.readopt(self.spec, worker)
        finally:
            worker.close()

    async def _restore_freeze(self, comm: ApiCommunicator) -> None:
        """Frozen if the job is to be suspended, else thawed: our predecessor may have died in between."""
        if self.job.journal.fact("suspended"):
            comm.requests.put_nowait(Request(Ask.SUSPEND, "It was suspended when the starter ended."))
            return
        try:
            await self.link.thaw(self.record.box)
        except (ProcdError, ProcdGone):
            pass  # it has ended


def stillborn(exit_: dict[str, Any] | None) -> bool:
    """True if the box (BoxExit in wire form) ended before its init had started the job.

    A procd that dies takes along the inits that it had not ordered to begin; one that had begun goes on.
    """
    return exit_ is not None and not exit_.get("begun", True) and not exit_["killed"]
