"""What the verbs of starterctl share: arguments, exit statuses, and one way to say what went wrong."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from condor_starter.knobs import Knobs

BAD_USAGE = 2
HELD = 230
OUR_FAILURE = 231


def ad_argument(parser: argparse.ArgumentParser) -> None:
    """The job ad: a file, or - for stdin."""
    parser.add_argument("ad", metavar="AD", help='file with the job ad, old or new syntax ("-": stdin)')


def knob_arguments(parser: argparse.ArgumentParser) -> None:
    """Knobs from files and from the command line."""
    parser.add_argument(
        "--config", action="append", type=Path, metavar="FILE", help="YAML file of knobs, instead of /etc's"
    )
    parser.add_argument(
        "--knob", action="append", default=[], metavar="NAME=VALUE", help="one knob; may be given again"
    )
    parser.add_argument(
        "--backend", choices=("auto", "namespaces", "rlimit"), help="the knob STARTER_BACKEND"
    )


def gather_knobs(arguments: argparse.Namespace) -> Knobs:
    """The knobs of this machine, with those of the command line on top. Raises KnobError."""
    from condor_starter.cli.places import for_user
    from condor_starter.knobs import KnobError, gather

    overrides = {}
    for word in arguments.knob:
        name, equals, value = word.partition("=")
        if not equals:
            raise KnobError(f"--knob {word}: expected NAME=VALUE")
        overrides[name.strip()] = value
    if arguments.backend:
        overrides["STARTER_BACKEND"] = arguments.backend
    return for_user(gather(arguments.config, overrides=overrides), os.environ, os.geteuid() == 0)


@dataclass(slots=True)
class Failed:
    """The exit status of what went wrong."""

    status: int = OUR_FAILURE


@contextmanager
def failures(program: str) -> Iterator[Failed]:
    """Say on stderr what went wrong, and settle the exit status: 2 for what the caller wrote, else 231."""
    from condor_starter.daemon.account import AccountError
    from condor_starter.job import BadAd, JobError
    from condor_starter.knobs import KnobError
    from condor_starter.procd.client import ProcdError, ProcdGone

    failed = Failed()
    try:
        yield failed
    except (BadAd, KnobError) as e:
        failed.status = BAD_USAGE
        print(f"{program}: {e}", file=sys.stderr)
    except FileNotFoundError as e:
        failed.status = BAD_USAGE
        print(f"{program}: {e.filename}: {e.strerror}", file=sys.stderr)
    except (AccountError, ProcdError, ProcdGone, JobError, OSError) as e:
        print(f"{program}: {e}", file=sys.stderr)
