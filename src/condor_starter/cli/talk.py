"""What the verbs that talk to starterd share: where it is, and how its refusals are told."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from condor_starter.cli.common import BAD_USAGE, OUR_FAILURE

if TYPE_CHECKING:
    from condor_starter.cli.client import Client


@dataclass(slots=True)
class Talk:
    """A conversation with starterd; ``status`` is the exit status once it failed."""

    client: Client
    status: int = OUR_FAILURE


def run_dir_argument(parser: argparse.ArgumentParser) -> None:
    """Where starterd's sockets are."""
    parser.add_argument(
        "--run-dir",
        metavar="DIR",
        help="condor_starterd's run directory (default: the machine's, or our own)",
    )


def numbers_argument(parser: argparse.ArgumentParser) -> None:
    """One job or several."""
    parser.add_argument("jobs", metavar="JOB", type=int, nargs="+", help="the job's number")


@contextmanager
def talking(verb: str, arguments: argparse.Namespace) -> Iterator[Talk]:
    """A client of starterd; what it refuses is said on stderr. 2 for what the caller asked, else 231."""
    from condor_starter.cli.client import ApiFailure, Client, default_socket

    with Client(default_socket(arguments.run_dir, os.environ)) as client:
        talk = Talk(client)
        try:
            yield talk
        except ApiFailure as e:
            print(f"starterctl {verb}: {e.text}", file=sys.stderr)
            talk.status = BAD_USAGE if 400 <= e.status < 500 else OUR_FAILURE
