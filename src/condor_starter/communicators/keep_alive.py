"""DC_CHILDALIVE: a startd kills a starter that has not said for an hour that it is alive (from 25.14 on at
once, before that as soon as it has said so once).
"""

from __future__ import annotations

import asyncio

from condor_starter.cedar.client import Target, open_command
from condor_starter.cedar.commands import Command
from condor_starter.cedar.errors import CedarError
from condor_starter.cedar.sessions import Session
from condor_starter.cedar.sinful import Sinful
from condor_starter.log import StarterLog

HANG_SECONDS = 3600
"""Silence after which the startd may take us for hung: HTCondor's NOT_RESPONDING_TIMEOUT."""

FIRST_SECONDS = 300.0
"""Most jobs are over by then, and cost nobody a connection."""

PERIOD_SECONDS = 1170.0
RETRY_SECONDS = 60.0


def start(
    parent: Sinful | None, session: Session | None, ours: str, pid: int, log: StarterLog
) -> asyncio.Task[None] | None:
    """Keep the startd at ``parent`` informed that its child ``pid`` lives, until the task is cancelled."""
    if parent is None or session is None:
        return None
    target = Target(parent, Command.DC_CHILDALIVE, session, ours, timeout=20.0)
    return asyncio.create_task(_keep_telling(target, pid, log), name="keep alive")


async def _keep_telling(target: Target, pid: int, log: StarterLog) -> None:
    wait = FIRST_SECONDS
    while True:
        await asyncio.sleep(wait)
        try:
            await tell(target, pid)
            wait = PERIOD_SECONDS
        except CedarError as e:
            log.say(f"The startd could not be told that we are alive: {e}")
            wait = RETRY_SECONDS


async def tell(target: Target, pid: int) -> None:
    """One message; it has no answer. Raises CedarError."""
    stream = await open_command(target)
    try:
        message = stream.writer().integer(pid).integer(HANG_SECONDS)
        await stream.send(message.integer(0).integer(0))  # the time that we waited for a log's lock: 0.0
    finally:
        stream.close()
