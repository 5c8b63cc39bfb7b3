"""The end of a box: whatever became of its job, nothing of it stays; what does is told, not waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from condor_starter.job import JobError
from condor_starter.log import StarterLog
from condor_starter.procd.client import Procd, ProcdError, ProcdGone
from condor_starter.runner import Runner

END_SECONDS = 40.0
"""How long each step may take; procd itself reports after 30 s what does not die."""


class Removal:
    """Takes down one box. ``runner`` is None for a box that was never started or could not be rejoined."""

    def __init__(self, procd: Procd, box: str, runner: Runner | None, log: StarterLog) -> None:
        self._procd = procd
        self._box = box
        self._runner = runner
        self._log = log

    async def remove(self, running: bool) -> None:
        """Kill what may run, let the engine remove its container, and have procd remove the rest."""
        if running:
            await self._tried(self._kill())
        if self._runner is not None:
            await self._tried(self._runner.close())
        await self._tried(self._destroy())

    async def _tried(self, work: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(END_SECONDS):
                await work
        except (ProcdError, ProcdGone, JobError, TimeoutError) as e:
            self._log.say(f"The box could not be removed: {e or 'its processes do not die'}")

    async def _kill(self) -> None:
        if self._runner is not None:
            await self._runner.kill()
            await self._runner.wait()
        else:
            await self._procd.kill(self._box)
            await self._procd.exit(self._box)

    async def _destroy(self) -> None:
        try:
            await self._procd.destroy(self._box)
        except ProcdError as e:
            if e.step != "state":
                raise
            await self._procd.exit(self._box)  # a start that failed: its init is about to be gone
            await self._procd.destroy(self._box)
