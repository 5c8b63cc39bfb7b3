"""``starterctl install-starter``: the script that a startd names in STARTER."""

from __future__ import annotations

import argparse
import os
import stat
import sys
from pathlib import Path
from typing import Any

from condor_starter.cli.common import BAD_USAGE, OUR_FAILURE, failures, gather_knobs, knob_arguments


def register(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "install-starter",
        help="write the condor_starter that a startd runs",
        description="Write the thin client of condor_starterd: a script to be named in STARTER of the pool's "
        "configuration. It starts in a few milliseconds, hands the job to condor_starterd, and does the work "
        "itself where none runs. Write it anew after an upgrade of Python or of this package.",
    )
    parser.add_argument("path", metavar="PATH", type=Path, help="for example /usr/local/sbin/condor_starter")
    parser.add_argument("--force", action="store_true", help="even if others than root could change it")
    knob_arguments(parser)
    parser.set_defaults(handler=handle)


def handle(arguments: argparse.Namespace) -> int:
    """Write it; 0, or 2 when it would not be safe to run as root."""
    with failures("starterctl install-starter") as failed:
        knobs = gather_knobs(arguments)
        python = Path(os.path.realpath(sys.executable))
        target: Path = arguments.path.absolute()
        weak = [w for p in (python, target.parent) if (w := weakness(p))]
        if weak and os.geteuid() == 0 and not arguments.force:
            for words in weak:
                print(f"starterctl install-starter: {words}", file=sys.stderr)
            return BAD_USAGE
        from condor_starter.cli.house import account

        uid = account(knobs, os.environ).uid
        _write(target, script(python, knobs.text("STARTER_RUN_DIR"), uid))
        print(f"STARTER = {target}")
        return 0
    return failed.status if failed.status else OUR_FAILURE


def script(python: Path, run: str, uid: int) -> bytes:
    """The thin client with this machine's values.

    The interpreter is the one beneath any virtual environment: the thin client needs nothing but it, and
    starts faster so. What it falls back to runs in the environment that we are in.
    """
    from condor_starter.cli import thin

    fallback = tuple(w.encode() for w in (sys.executable, "-I", "-m", "condor_starter.cli.condor_starter"))
    source = Path(thin.__file__).read_text(encoding="utf-8")
    return f"#!{python} -IS\n{source}\nmain({run!r}, ({uid},), {fallback!r})\n".encode()


def weakness(path: Path) -> str:
    """Why root should not trust what lies at ``path``: somebody else can change it. "" if nobody can."""
    for part in (path, *path.parents):
        st = part.stat()
        sticky = stat.S_ISDIR(st.st_mode) and st.st_mode & stat.S_ISVTX
        if st.st_uid != 0 or (st.st_mode & 0o022 and not sticky):
            return f"{path} cannot be trusted: {part} can be changed by others than root (see --force)"
    return ""


def _write(target: Path, data: bytes) -> None:
    """In one piece: a startd may run it at any moment."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o755)
    try:
        os.write(fd, data)
        os.fchmod(fd, 0o755)
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(temporary, target)
