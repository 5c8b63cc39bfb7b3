"""Local jobs on the command line: files opened, signals heard, the job run."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from condor_starter.calls.caller import Caller
from condor_starter.calls.options import Options
from condor_starter.communicators.base import Ask, Outcome, Request
from condor_starter.communicators.local import Files, LocalCommunicator, read_ad
from condor_starter.job import BadAd
from condor_starter.log import StarterLog
from condor_starter.starter import House, run_job

ClassAd = Any
"""A ``classad2.ClassAd``. The library has no type information."""

# The genuine starter's; INT, which there orphans the job, ends it at once.
SIGNALS: Mapping[int, Ask] = {
    signal.SIGTERM: Ask.VACATE_SOFT,
    signal.SIGQUIT: Ask.VACATE_FAST,
    signal.SIGUSR1: Ask.REMOVE,
    signal.SIGINT: Ask.VACATE_FAST,
}

# At a terminal Ctrl-C asks nicely; again, and it is over.
BY_HAND: Mapping[int, Ask] = {**SIGNALS, signal.SIGINT: Ask.VACATE_SOFT, signal.SIGHUP: Ask.VACATE_FAST}


async def communicator(
    options: Options, caller: Caller, house: House, log: StarterLog, stack: ExitStack
) -> LocalCommunicator:
    """The door of the job that ``options`` name. Raises BadAd, OSError."""
    if options.job_input_ad is None:
        raise BadAd("-job-keyword alone is not supported: give the job's ad with -job-input-ad FILE.")
    # in a thread: the ad may come by a pipe whose writer takes his time, and other jobs go on
    ad = await asyncio.to_thread(load_ad, caller.path(options.job_input_ad), caller.fd_of, log)
    for name, number in (("ClusterId", options.job_cluster), ("ProcId", options.job_proc)):
        if number is not None:
            ad[name] = number
    files = _files(options, caller, stack)
    execute = house.knobs.text("EXECUTE")
    return LocalCommunicator(ad, options.slot, execute, files, log, caller.pid)


def load_ad(name: str, fd_of: Callable[[int], int], log: StarterLog) -> ClassAd:
    """The ad in the file ``name``, or at our standard input for "-". Raises BadAd, OSError."""
    log.say(f'Reading job ClassAd from "{name}"')
    if name == "-":
        ad = read_ad(fd_of(0), "standard input")
    else:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
        try:
            ad = read_ad(fd, name)
        finally:
            os.close(fd)
    log.say(f'Found ClassAd data in "{name}"')
    return ad


def _files(options: Options, caller: Caller, stack: ExitStack) -> Files:
    named = {"stdin": options.job_stdin, "stdout": options.job_stdout, "stderr": options.job_stderr}
    return Files(
        output_ad=open_output_ad(caller.path(options.job_output_ad), caller.fd_of, stack),
        output_name=options.job_output_ad or "",
        update_ad=Path(caller.path(options.job_update_ad)) if options.job_update_ad else None,
        paths={n: p for n, p in named.items() if p and p != "-"},
        fds={n: caller.fd_of(i) for i, (n, p) in enumerate(named.items()) if p == "-"},
    )


def open_output_ad(name: str | None, fd_of: Callable[[int], int], stack: ExitStack) -> int | None:
    """A descriptor to append the output ad to. Raises OSError, its text a whole sentence."""
    if name is None:
        return None
    if name == "-":
        return fd_of(1)
    try:
        fd = os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY, 0o644)
    except OSError as e:
        remedy = "name a file that this account may write (root's starter becomes another), or - for stdout"
        said = f"the output ad {name} cannot be written as uid {os.geteuid()}: {e.strerror}; {remedy}"
        raise OSError(said) from e
    stack.callback(os.close, fd)
    return fd


async def run(
    house: House,
    comm: LocalCommunicator,
    log: StarterLog,
    heard: Heard,
    meaning: Mapping[int, Ask] = SIGNALS,
) -> Outcome:
    """Run the job of ``comm``; signals that arrive in ``heard`` meanwhile become requests."""
    listening = asyncio.create_task(translate(heard, comm.requests, meaning))
    try:
        return await run_job(house, comm, log)
    finally:
        listening.cancel()


Heard = asyncio.Queue[int]
"""Signal numbers, in the order of their arrival."""


async def translate(heard: Heard, requests: asyncio.Queue[Request], meaning: Mapping[int, Ask]) -> None:
    """Signals into requests, for ever. One that ends the job softly ends it at once when it comes again."""
    seen: set[int] = set()
    while True:
        number = await heard.get()
        if number not in meaning:
            continue
        ask = Ask.VACATE_FAST if number in seen else meaning[number]
        seen.add(number)
        requests.put_nowait(Request(ask, f"{signal.Signals(number).name} received"))


def hear(stack: ExitStack, meaning: Mapping[int, Ask] = SIGNALS) -> Heard:
    """Our own process's signals from now on, until ``stack`` is closed. A startd leaves them blocked."""
    heard: Heard = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in meaning:
        loop.add_signal_handler(number, heard.put_nowait, number)
        stack.callback(loop.remove_signal_handler, number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, set(meaning))
    return heard
