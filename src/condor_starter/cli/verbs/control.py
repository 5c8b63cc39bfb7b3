"""``starterctl suspend``, ``continue``, ``remove``, ``vacate``, ``forget`` and ``drain``."""

from __future__ import annotations

import argparse
from typing import Any

from condor_starter.cli.talk import numbers_argument, run_dir_argument, talking

_ASKS = {
    "suspend": "freeze a job with all its processes",
    "continue": "let a suspended job go on",
    "remove": "end a job: its removal signal, and SIGKILL when its time is over",
    "vacate": "end a job by its kill signal, as a machine that is needed for something else",
}


def register(verbs: Any) -> None:
    """Add the verbs."""
    for word, what in _ASKS.items():
        parser = verbs.add_parser(word, help=what, description=f"{what.capitalize()}.")
        numbers_argument(parser)
        parser.add_argument("--reason", default="", metavar="TEXT", help="travels into the job's record")
        run_dir_argument(parser)
        parser.set_defaults(handler=ask)
    parser = verbs.add_parser("forget", help="remove the record of a job that has ended")
    numbers_argument(parser)
    run_dir_argument(parser)
    parser.set_defaults(handler=forget)
    parser = verbs.add_parser(
        "drain",
        help="stop condor_starterd once its jobs have ended",
        description="Let condor_starterd take no more jobs and end with the last one. Root only.",
    )
    parser.add_argument("--kill", action="store_true", help="end the jobs now")
    run_dir_argument(parser)
    parser.set_defaults(handler=drain)


def ask(arguments: argparse.Namespace) -> int:
    """Ask it of each job; the first refusal ends it."""
    with talking(arguments.verb, arguments) as talk:
        for number in arguments.jobs:
            talk.client.ask(number, arguments.verb, arguments.reason)
        return 0
    return talk.status


def forget(arguments: argparse.Namespace) -> int:
    """Forget each job."""
    with talking("forget", arguments) as talk:
        for number in arguments.jobs:
            talk.client.forget(number)
        return 0
    return talk.status


def drain(arguments: argparse.Namespace) -> int:
    """Stop starterd."""
    with talking("drain", arguments) as talk:
        talk.client.drain(arguments.kill)
        return 0
    return talk.status
