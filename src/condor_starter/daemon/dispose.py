"""Removing a box that no job claims: its owner is dead, or failed in a way that nobody foresaw."""

from __future__ import annotations

import asyncio

from condor_starter.log import StarterLog
from condor_starter.procd.client import BoxInfo, Procd, ProcdError, ProcdGone

KILL_SECONDS = 60.0
"""For a box to die; procd itself reports after half of it what does not."""


async def dispose(procd: Procd, box: BoxInfo, log: StarterLog) -> None:
    """Kill and remove a box, whatever its state. What procd refuses is logged and stays in its ledger."""
    log.say(f"Box {box.box} belongs to no job: removing it", state=box.state)
    try:
        if box.state in ("starting", "running"):
            await _kill(procd, box.box)
        if box.state in ("starting", "running", "draining"):
            async with asyncio.timeout(KILL_SECONDS):
                await procd.exit(box.box)
        if box.state != "removing":
            await procd.destroy(box.box)
    except (ProcdError, ProcdGone, TimeoutError) as e:
        log.say(f"Box {box.box} could not be removed: {e}")


async def _kill(procd: Procd, name: str) -> None:
    try:
        await procd.kill(name)
    except ProcdError:
        pass  # it has ended since we were told of it: its exit says so


async def dispose_by_name(procd: Procd, name: str, log: StarterLog) -> None:
    """The same by name, or by scratch directory (boxes are named ``<scratch>.<number>``), if it is there."""
    try:
        _, boxes = await procd.hello()
    except ProcdGone as e:
        log.say(f"Box {name} could not be looked for: {e}")
        return
    for box in boxes:
        if box.box == name or box.box.rpartition(".")[0] == name:
            await dispose(procd, box, log)
