"""``starterctl submit``: a job for starterd."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condor_starter.cli.common import BAD_USAGE, ad_argument
from condor_starter.cli.talk import run_dir_argument, talking

if TYPE_CHECKING:
    from condor_starter.cli.client import Client


def register(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "submit",
        help="hand a job ad to condor_starterd",
        description="Hand a job ad to condor_starterd and print the job's number. The job runs as the "
        "account that submits it; root's as the Owner in the ad.",
        epilog="With --wait the exit status is that of starterctl run: the job's code; 128+N when signal N "
        "ended it; 230 held; 231 the site's or the system's failure; 2 bad usage or a bad ad. Ctrl-C stops "
        "waiting, not the job.",
    )
    ad_argument(parser)
    parser.add_argument("--wait", action="store_true", help="wait for the job's end and exit with its status")
    run_dir_argument(parser)
    parser.set_defaults(handler=handle)


def handle(arguments: argparse.Namespace) -> int:
    """Submit, and wait if that is wanted."""
    try:
        ad = sys.stdin.buffer.read() if arguments.ad == "-" else Path(arguments.ad).read_bytes()
    except OSError as e:
        print(f"starterctl submit: {arguments.ad}: {e.strerror}", file=sys.stderr)
        return BAD_USAGE
    with talking("submit", arguments) as talk:
        number = int(talk.client.submit(ad)["id"])
        print(number, flush=True)
        return _wait(talk.client, number) if arguments.wait else 0
    return talk.status


def _wait(client: Client, number: int) -> int:
    while (job := client.wait(number, 60))["state"] != "done":
        pass
    outcome = job["outcome"]
    if error := outcome["error"]:
        print(f"starterctl submit: job {number}: {error['text']} ({error['blame']})", file=sys.stderr)
    elif ended := outcome["ended_by"]:
        print(f"starterctl submit: job {number}: {ended['ask']}: {ended['reason']}", file=sys.stderr)
    return int(outcome["exit_status"])
