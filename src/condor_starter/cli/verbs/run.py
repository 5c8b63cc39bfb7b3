"""``starterctl run``: one job ad, here and now, with a private procd."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from condor_starter.cli.common import (
    BAD_USAGE,
    HELD,
    OUR_FAILURE,
    ad_argument,
    failures,
    gather_knobs,
    knob_arguments,
)

if TYPE_CHECKING:
    from pathlib import Path

    from condor_starter.communicators.base import Outcome
    from condor_starter.communicators.local import Files
    from condor_starter.knobs import Knobs
    from condor_starter.log import StarterLog

STANDARD = {"stdout": 1, "stderr": 2}


def register(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "run",
        help="run a job ad and exit with the job's status",
        description="Run one job ad in a box on this machine. Streams that the ad does not name are the "
        "terminal's. Ctrl-C asks the job to end, a second one ends it.",
    )
    ad_argument(parser)
    parser.add_argument("--slot", default="slot1", metavar="NAME", help="slot name (default: %(default)s)")
    parser.add_argument("--output-ad", metavar="FILE", help='append the final ad to FILE ("-": print it)')
    parser.add_argument(
        "--update-ad", metavar="FILE", help="rewrite FILE with each update of the running job"
    )
    parser.add_argument(
        "--log", metavar="FILE", help='StarterLog (default: $(LOG)/StarterLog.<slot>; "-": here)'
    )
    knob_arguments(parser)
    parser.set_defaults(handler=handle)


def handle(arguments: argparse.Namespace) -> int:
    """Run it; the exit status contract is in starterctl's help."""
    with failures("starterctl run") as failed, ExitStack() as stack:
        knobs = gather_knobs(arguments)
        return asyncio.run(_run(arguments, knobs, stack))
    return failed.status


async def _run(arguments: argparse.Namespace, knobs: Knobs, stack: ExitStack) -> int:
    from condor_starter.calls import local
    from condor_starter.cli.house import close_house, open_house
    from condor_starter.communicators.local import LocalCommunicator
    from condor_starter.log import StarterLog

    # With the caller's rights, which end below. Not so the log: its directory is the unprivileged account's.
    ad = local.load_ad(arguments.ad, lambda fd: fd, StarterLog(None))
    files = _files(arguments, stack)
    heard = local.hear(stack, local.BY_HAND)
    house, who = await open_house(knobs, os.environ)
    try:
        log = _log(arguments, knobs, stack)
        log.banner("starterctl run")
        if log.trouble:
            print(f"starterctl run: no StarterLog: {log.trouble}", file=sys.stderr)
        log.say(f"Running as {who.name}: {who.why}")
        comm = LocalCommunicator(ad, arguments.slot, knobs.text("EXECUTE"), files, log)
        outcome = await local.run(house, comm, log, heard, local.BY_HAND)
    finally:
        await close_house(house)
    status = exit_status(outcome)
    _tell(outcome, status)
    log.goodbye(status)
    return status


def _log(arguments: argparse.Namespace, knobs: Knobs, stack: ExitStack) -> StarterLog:
    from pathlib import Path

    from condor_starter.calls.logs import log_path
    from condor_starter.log import StarterLog

    if arguments.log == "-":
        return StarterLog(sys.stderr)
    path: Path = Path(arguments.log) if arguments.log else log_path(knobs, arguments.slot)
    log = StarterLog(path, limit=knobs.integer("MAX_STARTER_LOG"))
    stack.callback(log.close)
    return log


def _files(arguments: argparse.Namespace, stack: ExitStack) -> Files:
    from pathlib import Path

    from condor_starter.calls.local import open_output_ad
    from condor_starter.communicators.local import Files

    return Files(
        output_ad=open_output_ad(arguments.output_ad, lambda fd: fd, stack),
        output_name=arguments.output_ad or "",
        update_ad=Path(arguments.update_ad) if arguments.update_ad else None,
        spare=STANDARD,
        failures=True,
    )


def exit_status(outcome: Outcome) -> int:
    """The contract: the job's code; 128+N; 230 held; 231 site or system; 2 a bad ad."""
    from condor_starter.job import BadAd
    from condor_starter.sandbox.accounts import NoAccount

    error = outcome.error
    if isinstance(error, BadAd) or (isinstance(error, NoAccount) and error.blame.value == "user"):
        return BAD_USAGE
    if error is not None:
        return HELD if error.holds else OUR_FAILURE
    if outcome.status is None:
        return OUR_FAILURE
    if os.WIFSIGNALED(outcome.status):
        return 128 + os.WTERMSIG(outcome.status)
    return os.WEXITSTATUS(outcome.status)


_WORDS: Mapping[int, str] = {
    BAD_USAGE: "the ad cannot be used",
    HELD: "held",
    OUR_FAILURE: "not run to its end",
}


def _tell(outcome: Outcome, status: int) -> None:
    error = outcome.error
    if error is not None:
        code = f" (code {error.code}, subcode {error.subcode})" if error.holds else f" ({error.blame.value})"
        print(f"starterctl run: {_WORDS.get(status, '')}{code}: {error.text}", file=sys.stderr)
    elif outcome.status is None:
        reason = outcome.ended_by.reason if outcome.ended_by else ""
        print(f"starterctl run: the job did not run: {reason}", file=sys.stderr)
