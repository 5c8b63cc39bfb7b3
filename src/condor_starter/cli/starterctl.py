"""``starterctl``: run jobs by hand, ask what would be done and what the machine can do, talk to starterd.

Each verb is a module in :mod:`condor_starter.cli.verbs` with ``register(verbs)``: it adds its parser and sets
``handler``, a function of the parsed arguments that returns the exit status. Bad usage is exit status 2.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from collections.abc import Sequence

from condor_starter import __version__
from condor_starter.cli import verbs


def parser() -> argparse.ArgumentParser:
    """The parser with every verb that there is."""
    top = argparse.ArgumentParser(
        prog="starterctl",
        description="Run job ClassAds in boxes on this machine, and look after those that run.",
        epilog="Exit status of run: the job's code; 128+N when signal N ended it; 230 held; "
        "231 the site's or the system's failure; 2 bad usage or a bad ad.",
    )
    top.add_argument("--version", action="version", version=f"starterctl {__version__}")
    table = top.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name in sorted(m.name for m in pkgutil.iter_modules(verbs.__path__)):
        importlib.import_module(f"{verbs.__name__}.{name}").register(table)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the program."""
    arguments = parser().parse_args(sys.argv[1:] if argv is None else argv)
    try:
        return int(arguments.handler(arguments))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output went away
        sys.stderr.close()
        return 141


if __name__ == "__main__":
    sys.exit(main())
