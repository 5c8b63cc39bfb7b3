"""The coroutine of one job: select, plan, prepare, run, watch, report.

:func:`run_job` is the way of every job through the house, whatever its source; :func:`adopt_job` continues
with one that an earlier process started.
"""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

from condor_starter import draft, report
from condor_starter.communicators.base import Ask, Communicator, Outcome
from condor_starter.house import House
from condor_starter.isolation.boxplan import BoxExit, BoxPlan, from_wire, to_wire
from condor_starter.isolation.select import Backend
from condor_starter.job import Blame, Hold, JobError, JobSpec, spec_from_ad
from condor_starter.log import StarterLog
from condor_starter.monitor import Stopped, Watch, unless_stopped
from condor_starter.procd.client import ProcdError, ProcdGone
from condor_starter.record import STAGES, JobRecord
from condor_starter.removal import END_SECONDS, Removal
from condor_starter.runner import BoxRunner, Runner
from condor_starter.sandbox import contents, trust
from condor_starter.sandbox.interpreter import missing_interpreter
from condor_starter.sandbox.machine import host_name

__all__ = ["STAGES", "House", "JobRecord", "adopt_job", "run_job"]


async def run_job(
    house: House, comm: Communicator, log: StarterLog, record: JobRecord | None = None
) -> Outcome:
    """Run one job from its ad to its final report. Never raises for the job's sake: see Outcome.error."""
    house.procd.expect()
    job = _Job(house, comm, log, record or JobRecord(id=f"{os.getpid()}.{time.monotonic_ns()}"))
    return await job.through(job.understand, job.prepare, job.execute, job.watch, job.bring_back)


async def adopt_job(house: House, comm: Communicator, log: StarterLog, record: JobRecord) -> Outcome:
    """Continue with a job whose box an earlier process made; the same end as :func:`run_job`.

    A box in which nothing was started yet is removed, and the job begins anew.
    """
    job = _Job(house, comm, log, record)
    job.holds_box()
    if record.stage in ("accepted", "prepared"):
        await job.forget()
        return await run_job(house, comm, log, record)
    return await job.through(job.understand, job.rejoin, job.watch, job.bring_back)


class _Job:
    """One job on its way; the methods are the stations, in order."""

    def __init__(self, house: House, comm: Communicator, log: StarterLog, record: JobRecord) -> None:
        self.house = house
        self.comm = comm
        self.log = log
        self.record = record
        self.outcome = Outcome()
        self.ad: Any = None
        self.spec: JobSpec | None = None
        self._draft: draft.Draft | None = None
        self._plan: BoxPlan | None = None
        self._runner: Runner | None = None
        self._watch: Watch | None = None
        self._made = False  # procd knows the box
        self._running = False

    async def through(self, *stations: Callable[[], Awaitable[None]]) -> Outcome:
        """Every station until one fails, then the report: whatever happens, the job ends and is told once."""
        try:
            try:
                for station in stations:
                    await station()
            except Stopped as e:
                self.outcome.ended_by = e.request
            except JobError as e:
                self.outcome.error = e
            except ProcdError as e:
                self.outcome.error = self._refused(e)
            except ProcdGone as e:
                self.outcome.error = JobError(Hold.STARTER_ERROR, 0, str(e), Blame.SYSTEM)
            await self._report()
        finally:
            await self.comm.close()
        return self.outcome

    def holds_box(self) -> None:
        """There is a box already, whatever comes."""
        self._made = True
        self._running = self.record.stage == "running"

    # -- stations ---------------------------------------------------------------------------------

    async def understand(self) -> None:
        """The ad, and what will be done for it."""
        comm, knobs = self.comm, self.house.knobs
        self.ad = await comm.job_ad()
        domain = knobs.text("FILESYSTEM_DOMAIN") or host_name()
        spec = spec_from_ad(self.ad, filesystem_domain=domain, transfers=comm.name == "shadow")
        self.spec = spec
        self.log.say(f"Job {spec.id} set to execute immediately")
        if spec.docker is not None:
            await self.house.need_engine()
        scratch = self.record.plan.get("scratch") or comm.scratch_name()
        source = draft.Source(
            slot=comm.slot,
            machine=comm.machine_ad,
            box=self.record.box or _box_id(scratch),
            scratch=scratch,
            own_accounts=comm.name != "shadow"
            or trust.own_accounts(self.ad, knobs, getattr(comm, "submit_host", "")),
        )
        self._draft = draft.understand(spec, self.ad, self.house.capabilities(), knobs, source)
        self.spec = self._draft.spec
        for line in (self._draft.choice.lines()[0], *self._draft.notes):
            self.log.say(line)

    async def prepare(self) -> None:
        """The box's place: scratch directory, ads, input files."""
        found = self._found()
        site = found.site
        self.record.box = site.box
        self.record.plan = {
            "backend": found.choice.backend.value,
            "execute": site.execute,
            "scratch": site.scratch,
            "cgroup": found.cgroup,
            "user": site.identity.name,
        }
        self._advance("accepted")  # before the box exists: who adopts the job finds the box
        path = await self.house.procd.make(site.box, found.kind, site.execute, site.scratch, found.cgroup)
        self._made = True
        contents.write_ads(path, self.ad, site.machine)
        await unless_stopped(self.comm.fetch_inputs(found.spec, path), self.comm.requests)
        self._advance("prepared")

    async def execute(self) -> None:
        """Build the box and start the job."""
        found = self._found()
        streams = self.comm.streams(found.spec, found.cwd)
        passed = self.comm.stream_fds()
        index = {name: i for i, name in enumerate(passed)}
        self._plan = plan = draft.box_plan(found, streams, index, os.environ)
        runner = self._make_runner(plan, list(passed.values()))
        for line in draft.log_lines(found.spec, plan):
            self.log.say(line)
        await unless_stopped(runner.prepare(), self.comm.requests)
        await self.comm.executing(found.spec)
        self._running = True  # from here on there may be something to kill
        try:
            started = await runner.start()
        except ProcdError as e:
            self._running = False
            raise await self._start_failed(e, plan) from e
        self.outcome.started_at = report.wall_clock()
        self.record.started_at = self.outcome.started_at
        self.record.plan["pid"] = started.pid
        self._advance("running")
        for note in started.notes:
            self.log.say(note)
        self.log.say(f"Create_Process succeeded, pid={started.pid}")
        self._begin_watch(runner, started.pid, self.outcome.started_at)

    async def rejoin(self) -> None:
        """In the place of prepare and execute: the box is there, and procd knows it."""
        found = self._found()
        streams = self.comm.streams(found.spec, found.cwd)
        self._plan = plan = draft.box_plan(found, streams, {}, os.environ)
        self.outcome.started_at = self.record.started_at
        pid = int(self.record.plan.get("pid", 0))
        self.log.say(f"Adopted box {self.record.box}, pid={pid}")
        self._begin_watch(self._make_runner(plan, []), pid, self.record.started_at or report.wall_clock())

    async def watch(self) -> None:
        """Until everything in the box is dead; then what its end means."""
        assert self._watch is not None
        if self.record.exit is not None:  # it had ended before the earlier process did
            ended: BoxExit = from_wire(BoxExit, self.record.exit, "exit")
        else:
            ended = await self._watch.until_end()
        self._running = False
        self.outcome.ended_by = self._watch.ended_by
        self._take_exit(ended)
        self.record.exit = to_wire(ended)
        self._advance("ended")
        self._judge(ended)

    async def bring_back(self) -> None:
        """The outputs, if the job's end is one that brings any."""
        found = self._found()
        if not found.spec.transfer_files or not self._wants_outputs():
            return
        worker = await self.house.procd.worker(found.site.box)
        try:
            final = self.outcome.ended_by is None
            work = self.comm.send_outputs(found.spec, worker, final=final)
            await unless_stopped(work, self.comm.requests, soft=False)
        finally:
            worker.close()

    async def forget(self) -> None:
        """Remove a box that an earlier process made and did not start."""
        if self.record.box:
            try:
                await self.house.procd.destroy(self.record.box)
            except ProcdError as e:
                self.log.say(f"Box {self.record.box} of an earlier process: {e.text}")
        self.record.box = ""
        self.record.plan = {}

    # -- how it ended -----------------------------------------------------------------------------

    def _take_exit(self, ended: BoxExit) -> None:
        assert self._watch is not None
        self._watch.tally.add(ended.usage, time.monotonic())
        self.outcome.usage = ended.usage
        self.outcome.duration = ended.duration_usec / 1e6
        if ended.status >= 0:
            self.outcome.status = ended.status
            pid = self.record.plan.get("pid", 0)
            self.log.say(f"Process exited, pid={pid}, {report.describe_status(ended.status)}")
        elif ended.killed:
            self.outcome.status = 9
        if ended.leftovers:
            self.log.say(f"Killed {ended.leftovers} processes that the job left behind")
        if ended.error:
            self.log.say(f"The end of the box: {ended.error}")

    def _judge(self, ended: BoxExit) -> None:
        """Raise the JobError that this end amounts to, if it does."""
        assert self._plan is not None
        always = self.house.knobs.flag("STARTER_ALWAYS_HOLD_ON_OOM")
        error = report.verdict(ended, self._plan, always) if self.outcome.ended_by is None else None
        if error is not None:
            if ended.oom:
                self.log.say(f"Job was held due to OOM event: {error.text}")
            raise error

    def _wants_outputs(self) -> bool:
        if self.outcome.ended_by is None:
            return True
        when = str(self.ad.get("WhenToTransferOutput", "ON_EXIT")).upper()
        return self.outcome.ended_by.ask is Ask.VACATE_SOFT and when == "ON_EXIT_OR_EVICT"

    async def _start_failed(self, e: ProcdError, plan: BoxPlan) -> JobError:
        interpreter = ""
        if e.step == "exec" and e.errno == errno.ENOENT and not plan.chroot:
            interpreter = await missing_interpreter(self.house.procd, plan)
        return report.start_failed(e.step, e.errno, e.text, e.blame, plan, interpreter)

    def _refused(self, e: ProcdError) -> JobError:
        """procd would not do what was asked: the job is not to blame for what its plan never reached."""
        blame = Blame.SITE if e.blame in ("user", "site") else Blame.SYSTEM
        code = Hold.SCRATCH_DIR_ERROR if not self._made else Hold.STARTER_ERROR
        return JobError(code, e.errno, f"condor_starter_procd, step {e.step}: {e.text}", blame)

    # -- the report -------------------------------------------------------------------------------

    async def _report(self) -> None:
        ad = self._final_ad()
        if self.outcome.error is not None:
            self.log.say(self.outcome.error.text)
        if self.outcome.status is not None:
            await self._last_update(ad)
        await self._remove_box()
        await self.house.emptied()
        try:
            await self.comm.finished(self.spec, self.outcome, ad)
            self._advance("reported")
        except (JobError, OSError) as e:
            self.log.say(f"The end of the job could not be told: {e}")
        self.log.say("All jobs have exited... starter exiting")

    async def _last_update(self, ad: Any) -> None:
        try:
            await asyncio.wait_for(self.comm.update(ad, final=True), END_SECONDS)
        except (TimeoutError, JobError) as e:
            self.log.say(f"The final update failed: {e or 'it was not taken in time'}")

    def _final_ad(self) -> Any:
        tally = self._watch.tally if self._watch is not None else report.Tally()
        return report.final_ad(
            self.outcome, tally, int(self.record.plan.get("pid", 0)), self._cgroup_enforced()
        )

    async def _remove_box(self) -> None:
        """Whatever became of the job, nothing of its box stays."""
        if self._made:
            box = Removal(self.house.procd, self.record.box, self._runner, self.log)
            await box.remove(self._running)

    def _advance(self, stage: str) -> None:
        """Enter a stage. A record that cannot be saved is a loss for the next process, not for this job."""
        try:
            self.record.advance(stage)
        except OSError as e:
            self.log.say(f"The job's record could not be saved at the stage {stage}: {e}")

    # -- small things -----------------------------------------------------------------------------

    def _found(self) -> draft.Draft:
        assert self._draft is not None
        return self._draft

    def _make_runner(self, plan: BoxPlan, fds: list[int]) -> Runner:
        if self._found().choice.backend is Backend.DOCKER:
            self._runner = self._docker_runner(plan, fds)
        else:
            self._runner = BoxRunner(self.house, plan, fds)
        return self._runner

    def _docker_runner(self, plan: BoxPlan, fds: list[int]) -> Runner:
        from condor_starter.engines.docker import DockerRunner  # only jobs with an image pay for it

        assert self.house.engine is not None
        container = draft.container(self._found(), os.environ)
        return DockerRunner(self.house, self.house.engine, plan, container, fds, self.log.say)

    def _begin_watch(self, runner: Runner, pid: int, started_at: float) -> None:
        self._watch = Watch(runner, self.comm, self.log, self._found().spec, self.house.knobs)
        self._watch.vacate_seconds = trust.vacate_seconds(self.ad, self.house.knobs)
        self._watch.began(pid, started_at, self._cgroup_enforced())

    def _cgroup_enforced(self) -> bool:
        plan = self._plan
        if plan is None or plan.kind == "tree" or plan.limits.memory is None:
            return False
        return "memory" in self._found().site.can.limits


def _box_id(scratch: str) -> str:
    """Unique on this machine, for ever: terminal records are kept under it."""
    return f"{scratch[:44]}.{time.time_ns():x}"
