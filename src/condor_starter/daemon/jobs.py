"""The jobs of one starterd: each is one task that runs the job's coroutine, and one directory that stays."""

from __future__ import annotations

import asyncio
import contextlib
import time
import traceback
from collections import Counter, deque
from collections.abc import Coroutine, Iterator
from typing import Any

from condor_starter.communicators.base import Ask, ClassAd, Outcome, Request
from condor_starter.daemon import report
from condor_starter.daemon.dispose import dispose_by_name
from condor_starter.daemon.job import Job, Phase
from condor_starter.daemon.link import ProcdLink
from condor_starter.daemon.store import Journal, KeptRecord, Left, Store, Submission
from condor_starter.daemon.way import Way
from condor_starter.job import Blame, Hold, JobError, JobSpec, spec_from_ad
from condor_starter.log import StarterLog
from condor_starter.starter import House

KEEP_BYTES = 256 << 20
"""Disk that the ended jobs of one user may take in the state directory."""


class Jobs:
    """Every job, running or done."""

    def __init__(self, house: House, link: ProcdLink, store: Store, log: StarterLog) -> None:
        self._house = house
        self._link = link
        self._store = store
        self._log = log
        self._slots = asyncio.Semaphore(max(1, house.knobs.integer("STARTER_MAX_RUNNING")))
        self._keep_jobs = max(1, house.knobs.integer("STARTER_KEEP_JOBS"))
        self._jobs: dict[int, Job] = {}
        self._alive: Counter[int] = Counter()  # by uid of the submitter
        self._ended: dict[int, deque[Job]] = {}  # the same, oldest first
        self._kept_bytes: Counter[int] = Counter()
        self.ended = {"exited": 0, "signalled": 0, "held": 0, "failed": 0, "ended": 0}  # since our start
        self.adopted = 0

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs.values())

    def get(self, number: int) -> Job | None:
        """The job with this number."""
        return self._jobs.get(number)

    def alive(self) -> list[Job]:
        """Jobs that have not ended."""
        return [j for j in self if j.phase is not Phase.DONE]

    def alive_count(self, uid: int | None = None) -> int:
        """How many have not ended, of one submitter or of all."""
        return self._alive.total() if uid is None else self._alive[uid]

    async def idle(self) -> None:
        """Wait until every job has ended."""
        while alive := self.alive():
            await alive[0].done.wait()

    # -- the ways in ------------------------------------------------------------------------------

    def submit(self, text: str, ad: ClassAd, spec: JobSpec, submission: Submission) -> Job:
        """A new job: on disk when this returns, run as soon as there is room. Raises OSError."""
        journal, record = self._store.create(text, submission)
        job = self._add(journal, submission)
        self._begin(job, self._way(job, ad, spec, record, f"dir_api_{job.number}"), adopted=False)
        return job

    def show(self, left: Left) -> None:
        """A job that ended before we started."""
        job = self._add(left.journal, left.submission)
        job.outcome = left.outcome
        self._retire(job)

    def resume(self, left: Left, ad: ClassAd, adopted: bool) -> None:
        """A job of our predecessor: adopted with its box, or run from the start because it never ran.

        Raises BadAd.
        """
        spec = spec_from_ad(ad, transfers=False)
        job = self._add(left.journal, left.submission)
        self.adopted += adopted
        # After a machine's crash the old scratch directory may still be there: another name.
        scratch = f"dir_api_{job.number}_{time.time_ns():x}"
        self._begin(job, self._way(job, ad, spec, left.record, scratch), adopted)

    def close(self, left: Left, outcome: Outcome) -> None:
        """A job of our predecessor that ends here."""
        job = self._add(left.journal, left.submission)
        self._end(job, outcome, None)
        self._done(job)

    # -- what may be asked of a job ---------------------------------------------------------------

    def ask(self, job: Job, request: Request) -> bool:
        """Pass a request on to the job; False if it has ended, or cannot be asked this any more."""
        if job.phase is Phase.DONE or job.comm is None:
            return False
        if request.ask in (Ask.SUSPEND, Ask.CONTINUE):
            if job.phase not in (Phase.RUNNING, Phase.SUSPENDED):
                return False
        else:
            job.asked = job.asked or request
            if job.phase is Phase.QUEUED:
                self._end(job, Outcome(ended_by=request), None)
                self._done(job)
                return True
        job.comm.requests.put_nowait(request)
        return True

    def forget(self, job: Job) -> None:
        """Remove the record of a job that has ended."""
        del self._jobs[job.number]
        self._ended[job.submission.uid].remove(job)
        self._kept_bytes[job.submission.uid] -= job.size
        job.journal.remove()

    # -- the way through --------------------------------------------------------------------------

    def _add(self, journal: Journal, submission: Submission) -> Job:
        job = self._jobs[journal.number] = Job(journal, submission)
        self._alive[submission.uid] += 1
        return job

    def _way(self, job: Job, ad: ClassAd, spec: JobSpec, record: KeptRecord, scratch: str) -> Way:
        return Way(
            house=self._house,
            link=self._link,
            job=job,
            ad=ad,
            spec=spec,
            record=record,
            scratch=scratch,
            changed=lambda update: self._changed(job, update),
            ended=lambda outcome, final: self._end(job, outcome, final),
        )

    def _begin(self, job: Job, way: Way, adopted: bool) -> None:
        way.open_door()
        run = way.adopt(self._slots) if adopted else way.run(self._slots)
        job.task = asyncio.create_task(self._guard(job, way.record, run), name=f"job {job.number}")

    async def _guard(self, job: Job, record: KeptRecord, run: Coroutine[Any, Any, None]) -> None:
        """The end of a job's task: whatever happened, there is one terminal record, and who waits is told."""
        try:
            await run
        except Exception as e:
            self._log.say(f"Job {job.number}: {traceback.format_exc()}")
            if record.box:
                await dispose_by_name(self._house.procd, record.box, self._log)
            error = JobError(Hold.STARTER_ERROR, 0, f"The starter failed: {e!r}", Blame.SYSTEM)
            self._end(job, Outcome(error=error), None)
        if job.phase is not Phase.DONE:
            self._done(job)

    def _changed(self, job: Job, update: ClassAd | None) -> None:
        if update is not None:
            job.update = report.summary(update)
        else:
            job.journal.note(begun=True)
        if job.phase not in (Phase.STARTING, Phase.RUNNING, Phase.SUSPENDED):
            return
        suspended = job.update.get("JobState") == "Suspended"
        if suspended != (job.phase is Phase.SUSPENDED):
            with contextlib.suppress(OSError):  # a full disk: at worst the next starterd continues it
                job.journal.note(suspended=suspended)
        job.phase = Phase.SUSPENDED if suspended else Phase.RUNNING

    def _end(self, job: Job, outcome: Outcome, final: ClassAd | None) -> None:
        """Write the terminal record, unless it is written: only the first one counts."""
        if job.outcome is not None:
            return
        job.phase = Phase.ENDING
        job.outcome = report.terminal(outcome)
        try:
            job.journal.finish(job.outcome, final.printOld() if final is not None else "")
        except OSError as e:
            self._log.say(f"Job {job.number}: its terminal record cannot be written: {e}")

    def _done(self, job: Job) -> None:
        assert job.outcome is not None
        how, status = job.outcome["how"], job.outcome["exit_status"]
        self.ended[how] += 1
        self._log.say(f"Job {job.number} has ended", how=how, status=status)
        self._retire(job)
        self._make_room(job.submission.uid)

    def _retire(self, job: Job) -> None:
        """The job is done: nothing of it but its record is left."""
        uid = job.submission.uid
        with contextlib.suppress(OSError):
            job.size = job.journal.size()
        job.journal.close()
        job.phase, job.task, job.comm = Phase.DONE, None, None
        self._alive[uid] -= 1
        self._ended.setdefault(uid, deque()).append(job)
        self._kept_bytes[uid] += job.size
        job.done.set()

    def _make_room(self, uid: int) -> None:
        """Forget the oldest ended jobs of a user who has too many or too large ones."""
        ended = self._ended[uid]
        while len(ended) > self._keep_jobs or (len(ended) > 1 and self._kept_bytes[uid] > KEEP_BYTES):
            self.forget(ended[0])
