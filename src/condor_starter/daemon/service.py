"""starterd as a whole: what is started in which order, and how it ends.

Start: procd, then adoption, then the doors: whoever gets in finds every job of the one before us there.

End: starterd is made to be killed, so a polite end is nearly the same. SIGTERM (and SIGINT) closes the doors,
waits a moment for jobs that are just being started, and goes; procd keeps the boxes, the next starterd adopts
them. Jobs of a pool cannot be continued by another process (their shadow's session is ours): they are ended,
and run again. SIGQUIT ends every job first. ``POST /v1/drain`` takes no more and ends with the last.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from condor_starter.communicators.base import Ask, Request
from condor_starter.daemon import adopt, pool
from condor_starter.daemon.api import Api
from condor_starter.daemon.dispose import dispose_by_name
from condor_starter.daemon.httpd import HttpServer
from condor_starter.daemon.intake import Intake
from condor_starter.daemon.job import Phase
from condor_starter.daemon.jobs import Jobs
from condor_starter.daemon.link import ProcdLink
from condor_starter.daemon.sdnotify import notify
from condor_starter.daemon.store import Store
from condor_starter.knobs import Knobs
from condor_starter.log import StarterLog
from condor_starter.procd.client import ProcdGone
from condor_starter.starter import House

SETTLE_SECONDS = 5.0  # for jobs between two steps when we are told to stop
POOL_SECONDS = 20.0  # for pool jobs to tell their shadows
KILL_SECONDS = 60.0  # for killed jobs to end


@dataclass(frozen=True, slots=True)
class Plan:
    """What starterd was told: directories, and the sockets that were opened while we were root."""

    run: Path
    state: Path
    procd_seconds: float  # patience for procd at start
    api: socket.socket
    intake: socket.socket


class Starterd:
    """The daemon; implements :class:`condor_starter.daemon.api.Service`."""

    def __init__(self, plan: Plan, knobs: Knobs, log: StarterLog) -> None:
        """Raises StateError when another starterd has the state directory."""
        self._plan = plan
        self._log = log
        self._store = Store(plan.state)
        self._stop = asyncio.Event()
        self._ready: list[Callable[[], None]] = []
        self._drainer: asyncio.Task[None] | None = None
        self.draining = False
        self.link = ProcdLink(str(plan.run / "procd.sock"), log)
        self.house = House(procd=self.link, knobs=knobs, facts=self.link.facts)
        self.jobs = Jobs(self.house, self.link, self._store, log)
        self._intake = Intake(
            lambda client: pool.serve(client, self.house),
            lambda client: dispose_by_name(self.link, f"dir_{client.pid}", log),
            log,
        )
        self._http = HttpServer(Api(self).routes())

    async def run(self) -> int:
        """Serve until told to stop; the exit status: 0, or 1 when there is no procd."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGQUIT, self.drain, True)
        loop.add_signal_handler(signal.SIGHUP, lambda: None)
        try:
            boxes = await self.link.open(self._plan.procd_seconds)
        except (ProcdGone, TimeoutError):
            self._log.say(f"No condor_starter_procd at {self._plan.run}/procd.sock: start it first")
            return 1
        await adopt.adopt(self.jobs, self._store, self.link, boxes, self._log)
        await self._open_doors()
        await self._stop.wait()
        await self._close_doors()
        return 0

    def when_ready(self, tell: Callable[[], None]) -> None:
        """Call ``tell`` as soon as the doors are open."""
        self._ready.append(tell)

    def drain(self, kill: bool) -> None:
        """Take no more jobs and end with the last one; ``kill``: end them now."""
        if not self.draining:
            self._log.say("Draining: no more jobs are taken", kill=kill)
        self.draining = True
        if kill:
            for job in self.jobs.alive():
                self.jobs.ask(job, Request(Ask.VACATE_FAST, "The starter is being stopped."))
        self._drainer = asyncio.create_task(self._drained(), name="drain")

    async def _drained(self) -> None:
        await self.jobs.idle()
        await self._intake.idle()
        self._stop.set()

    async def _open_doors(self) -> None:
        await self._http.start(self._plan.api)
        self._intake.start(self._plan.intake)
        gc.collect()
        gc.freeze()  # what is imported stays: no collection looks at it again, and forks share its pages
        self._log.say("Ready", jobs=self.jobs.alive_count(), run=self._plan.run, uid=os.getuid())
        notify("READY=1")
        for tell in self._ready:
            tell()

    async def _close_doors(self) -> None:
        self._log.say("Stopping; jobs that run are left to the next starterd", jobs=self.jobs.alive_count())
        notify("STOPPING=1")
        self.draining = True
        await self._intake.stop(POOL_SECONDS)
        await self._settle()
        await self._http.stop()
        self._store.close()

    async def _settle(self) -> None:
        """Let jobs that are being started or ended get to their next resting point, for a while."""
        for _ in range(int(SETTLE_SECONDS / 0.02)):
            if not any(job.phase in (Phase.STARTING, Phase.ENDING) for job in self.jobs):
                return
            await asyncio.sleep(0.02)
