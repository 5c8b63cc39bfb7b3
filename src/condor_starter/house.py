"""What the jobs of one process share."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from condor_starter.isolation.facts import Capabilities, capabilities
from condor_starter.knobs import Knobs
from condor_starter.procd.client import Procd

if TYPE_CHECKING:
    from condor_starter.engines.docker import DockerEngine

EMPTY_SECONDS = 5.0
"""For a procd that has nothing left to do to end."""


@dataclass(slots=True)
class House:
    """The connection to procd, the admin's knobs, the machine's facts, the engine if one was looked for."""

    procd: Procd
    knobs: Knobs
    facts: dict[str, Any]  # procd's facts about this machine (its hello reply)
    engine: DockerEngine | None = None
    one_job: bool = False  # it goes with its one job, and so does its procd

    async def emptied(self) -> None:
        """Nothing of the job is left here, and its end is told next.

        With one job procd has nothing more to do. It ends now, not while a startd waits for us: a shadow that
        has heard of the end asks for the slot again, and if we are still there it asks again a second later.
        """
        if self.one_job:
            with contextlib.suppress(TimeoutError):  # it still holds what does not die; it goes on without us
                async with asyncio.timeout(EMPTY_SECONDS):
                    await self.procd.close()

    async def need_engine(self) -> None:
        """Look for a container engine, when the first job wants one: the import takes 0.1 s."""
        if self.engine is None:
            module = await asyncio.to_thread(importlib.import_module, "condor_starter.engines.docker")
            self.engine = module.DockerEngine.find(self.knobs)
        if self.engine.facts is None or not self.engine.facts.usable:
            await self.engine.probe()

    def capabilities(self) -> Capabilities:
        """What this machine can do, typed."""
        found = self.engine.facts if self.engine is not None else None
        if found is None:
            return capabilities(self.facts)
        return capabilities(self.facts, found.version, found.reason)
