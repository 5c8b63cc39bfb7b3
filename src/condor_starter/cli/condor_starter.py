"""``condor_starter``: the genuine program's command line, in a process of its own with a private procd.

The startd gives descriptors and ``CONDOR_INHERIT``; by hand it is ``condor_starter -f -job-input-ad FILE``.
Imports that cost time stay inside the functions that need them.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from condor_starter.calls.options import Options, UsageError, parse_args

if TYPE_CHECKING:
    from condor_starter.knobs import Knobs


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the program: exit status as HTCondor's, 1 for usage errors (said on stderr)."""
    try:
        options = parse_args(sys.argv[1:] if argv is None else argv)
    except UsageError as e:
        print(f"condor_starter: {e}", file=sys.stderr)
        return 1
    if options.version:
        from condor_starter.cli.probe import version

        print(version())
        return 0
    if options.classad:
        from condor_starter.cli.probe import main as probe

        return probe()
    return _run(options)


def _run(options: Options) -> int:
    from condor_starter.cli.places import for_user
    from condor_starter.daemon.account import AccountError
    from condor_starter.knobs import KnobError, gather
    from condor_starter.procd.client import ProcdGone

    try:
        etc = [Path(options.config)] if options.config else None
        knobs = gather(etc, local_name=options.local_name or "")
        knobs = for_user(knobs, os.environ, os.geteuid() == 0)
        return asyncio.run(_alone(options, knobs))
    except (KnobError, AccountError, ProcdGone, OSError) as e:
        print(f"condor_starter: {e}", file=sys.stderr)
        return 1


async def _alone(options: Options, knobs: Knobs) -> int:
    """Serve in this process, with a private procd."""
    from condor_starter.calls.local import hear
    from condor_starter.calls.serve import serve
    from condor_starter.cli.house import close_house, open_house

    with ExitStack() as stack:
        heard = hear(stack)
        house, _ = await open_house(knobs, os.environ)
        try:
            status = await serve(options, os.environ, lambda fd: fd, house, signals=heard)
        finally:
            await close_house(house)
        if options.shadow_host is not None:
            _leave(status)
        return status


def _leave(status: int) -> NoReturn:
    """Exit at once: what an interpreter does at its end takes longer than the shadow that has heard of the
    job's end needs to ask for the slot again, and the startd refuses while we are there.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    sys.exit(main())
