"""``starterctl tail`` and ``starterctl log``: what a job says, and what is said about it."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condor_starter.cli.common import BAD_USAGE
from condor_starter.cli.talk import run_dir_argument, talking

if TYPE_CHECKING:
    from condor_starter.cli.client import Client

LAST = 4096
_PAUSE = 0.2  # seconds between looks at a stream that is followed


def register(verbs: Any) -> None:
    """Add the verbs."""
    parser = verbs.add_parser(
        "tail",
        help="show the end of a job's output",
        description="Show the end of a job's standard output. A file that the job's ad names is read with "
        "your own rights.",
    )
    parser.add_argument("job", metavar="JOB", type=int, help="the job's number")
    parser.add_argument("-e", "--stderr", action="store_true", help="its standard error instead")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the job ends")
    parser.add_argument("-c", "--bytes", type=int, default=LAST, metavar="N", help="the last N (%(default)s)")
    run_dir_argument(parser)
    parser.set_defaults(handler=tail)
    parser = verbs.add_parser("log", help="show a job's StarterLog")
    parser.add_argument("job", metavar="JOB", type=int, help="the job's number")
    run_dir_argument(parser)
    parser.set_defaults(handler=log)


def tail(arguments: argparse.Namespace) -> int:
    """Show, and follow."""
    stream = "stderr" if arguments.stderr else "stdout"
    with talking("tail", arguments) as talk:
        named = talk.client.job(arguments.job)["streams"][stream]
        source = (
            _File(named, talk.client, arguments.job) if named else _Kept(talk.client, arguments.job, stream)
        )
        try:
            return _copy(source, -max(1, arguments.bytes), arguments.follow)
        except OSError as e:
            print(f"starterctl tail: {e.filename}: {e.strerror}", file=sys.stderr)
            return BAD_USAGE
    return talk.status


def log(arguments: argparse.Namespace) -> int:
    """Show it."""
    with talking("log", arguments) as talk:
        sys.stdout.buffer.write(talk.client.log(arguments.job))
        return 0
    return talk.status


class _Kept:
    """A stream that starterd captured."""

    def __init__(self, client: Client, number: int, stream: str) -> None:
        self._client = client
        self._number = number
        self._stream = stream

    def read(self, offset: int) -> tuple[bytes, int, bool]:
        return self._client.tail(self._number, self._stream, offset)


class _File:
    """A stream in a file of the user's own."""

    def __init__(self, name: str, client: Client, number: int) -> None:
        self._path = Path(name)
        self._client = client
        self._number = number

    def read(self, offset: int) -> tuple[bytes, int, bool]:
        done = self._client.job(self._number)["state"] == "done"
        with self._path.open("rb") as file:
            size = file.seek(0, 2)
            start = file.seek(offset if offset >= 0 else max(0, size + offset))
            data = file.read(1 << 18)
        return data, start + len(data), done


def _copy(source: _Kept | _File, offset: int, follow: bool) -> int:
    while True:
        data, offset, done = source.read(offset)
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        if data:
            continue
        if done or not follow:
            return 0
        time.sleep(_PAUSE)
