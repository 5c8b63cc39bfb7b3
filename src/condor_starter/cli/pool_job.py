"""One job of a pool from its startd's call to the starter's exit status."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping

from condor_starter.cedar.errors import CedarError
from condor_starter.communicators.shadow import ShadowCommunicator, open_shadow
from condor_starter.log import StarterLog
from condor_starter.starter import House, run_job

FAILED = 1
"""The starter's exit status when there was nothing to begin with: the job runs again."""

SECRETS = ("CONDOR_INHERIT", "CONDOR_PRIVATE_INHERIT", "CONDOR_PRIVATE_SHARED_PORT_COOKIE")
"""Environment variables that nothing we start may see."""


async def run_pool_job(
    host: str,
    env: Mapping[str, str],
    fd_of: Callable[[int], int],
    house: House,
    log: StarterLog,
    *,
    pid: int,
    signals: asyncio.Queue[int],
) -> int:
    """Run the job that a startd called process ``pid`` for, with its environment and descriptors.

    ``host`` is the submit machine; ``signals`` are those that the process gets. Returns its exit status: 0
    whatever became of the job, 2 when its shadow was lost.
    """
    try:
        comm = await open_shadow(host, env, fd_of, log, house.knobs, pid)
    except CedarError as e:
        log.say(f"This is no call of a startd that can be answered: {e}")
        return FAILED
    async with _forwarding(signals, comm):
        await run_job(house, comm, log)
    return comm.exit_status


@contextlib.asynccontextmanager
async def _forwarding(signals: asyncio.Queue[int], comm: ShadowCommunicator) -> AsyncIterator[None]:
    task = asyncio.create_task(_forward(signals, comm))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _forward(signals: asyncio.Queue[int], comm: ShadowCommunicator) -> None:
    while True:
        comm.signal(await signals.get())
