"""One call of a starter, served: its log opened, its door found, its job run, its exit status known."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace

from condor_starter.calls import local
from condor_starter.calls.caller import Caller
from condor_starter.calls.logs import log_path
from condor_starter.calls.options import Options
from condor_starter.cedar.errors import CedarError
from condor_starter.cedar.version import CONDOR_PLATFORM, CONDOR_VERSION
from condor_starter.communicators.base import Outcome
from condor_starter.job import BadAd, Hold, JobError
from condor_starter.knobs import KnobError, Knobs
from condor_starter.log import StarterLog
from condor_starter.sandbox.accounts import NoAccount
from condor_starter.starter import House, run_job


async def serve(
    options: Options,
    env: Mapping[str, str],
    fd_of: Callable[[int], int],
    house: House,
    *,
    pid: int = 0,
    cwd: str = "",
    signals: asyncio.Queue[int] | None = None,
) -> int:
    """Run the one job that ``options`` and ``env`` describe and return the starter's exit status.

    ``env`` is the client's environment; ``fd_of(n)`` maps a descriptor number of the client (0, 1, 2 and
    those of CONDOR_INHERIT) to one of ours; ``pid`` and ``cwd`` are the client's (0 and "": our own); what
    it is signalled comes through ``signals``.
    """
    house.procd.expect()  # the earlier, the better: reading what the startd left takes a while
    caller = Caller(env, fd_of, pid or os.getpid(), cwd, signals or asyncio.Queue())
    try:
        knobs = house.knobs.with_environ(env)
    except KnobError as e:
        caller.complain(str(e))
        return 1
    shared, house = house, replace(house, knobs=knobs)
    with ExitStack() as stack:
        log = open_log(options, knobs, stack, caller)
        log.banner("condor_starter", CONDOR_VERSION, CONDOR_PLATFORM)
        serve_one = _serve_shadow if options.shadow_host else _serve_local
        status = await serve_one(options, caller, house, log)
        log.goodbye(status)
    shared.engine = shared.engine or house.engine
    return status


def open_log(options: Options, knobs: Knobs, stack: ExitStack, caller: Caller) -> StarterLog:
    """The StarterLog that ``options`` ask for: a file of the slot, or the caller's standard error."""
    if options.log_to_stderr:
        stream = stack.enter_context(os.fdopen(os.dup(caller.fd_of(2)), "w"))
        return StarterLog(stream, options.header, pid=caller.pid)
    if options.log_dir:
        knobs = knobs.with_({"LOG": options.log_dir})
    path, limit = log_path(knobs, options.log_suffix or ""), knobs.integer("MAX_STARTER_LOG")
    log = StarterLog(path, options.header, limit=limit, pid=caller.pid)
    stack.callback(log.close)
    return log


async def _serve_shadow(options: Options, caller: Caller, house: House, log: StarterLog) -> int:
    """A job of a pool: the shadow is at the other end of a socket that the startd passed on."""
    from condor_starter.communicators.shadow import open_shadow  # local jobs do without it and its imports

    assert options.shadow_host is not None
    try:
        comm = await open_shadow(options.shadow_host, caller.env, caller.fd_of, log, house.knobs, caller.pid)
    except CedarError as e:
        log.say(f"Failed to initialize JobInfoCommunicator, aborting: {e}")
        return 1
    listening = asyncio.create_task(_pass_on(caller.signals, comm.signal))
    try:
        await run_job(house, comm, log)
    finally:
        listening.cancel()
    return comm.exit_status


async def _pass_on(signals: asyncio.Queue[int], to: Callable[[int], None]) -> None:
    while True:
        to(await signals.get())


async def _serve_local(options: Options, caller: Caller, house: House, log: StarterLog) -> int:
    """A job from a file or from stdin. 0 whenever the job was tried, 1 for a bad ad or account."""
    log.say("Starter running a local job with no shadow")
    with ExitStack() as stack:
        try:
            comm = await local.communicator(options, caller, house, log, stack)
        except (JobError, OSError) as e:
            log.say(f"Failed to initialize JobInfoCommunicator, aborting: {e}")
            caller.complain(str(e))
            return 1
        outcome = await local.run(house, comm, log, caller.signals)
    return _status(outcome, caller)


def _status(outcome: Outcome, caller: Caller) -> int:
    error = outcome.error
    refused = isinstance(error, BadAd | NoAccount) or (
        error is not None and error.code == Hold.SCRATCH_DIR_ERROR
    )
    if refused and outcome.status is None:
        caller.complain(str(error))
        return 1
    return 0
