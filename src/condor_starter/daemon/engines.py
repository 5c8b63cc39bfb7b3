"""The container engine of the house: looked for when the first job wants one."""

from __future__ import annotations

import asyncio
import importlib

from condor_starter.communicators.base import ClassAd
from condor_starter.starter import House

_looking = asyncio.Lock()


async def find(house: House, ad: ClassAd) -> None:
    """See that ``house`` has an engine if the job in ``ad`` could want one.

    The import takes a tenth of a second: it is made in a thread, while other jobs go on.
    """
    wants = any(name in ad for name in ("WantDocker", "WantContainer"))
    if house.engine is not None or not (wants or isinstance(ad.get("JobUniverse"), str)):
        return
    async with _looking:
        if house.engine is None:
            module = await asyncio.to_thread(importlib.import_module, "condor_starter.engines.docker")
            engine = module.DockerEngine.find(house.knobs)
            await engine.probe()
            house.engine = engine
