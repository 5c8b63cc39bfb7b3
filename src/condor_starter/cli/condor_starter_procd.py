"""``condor_starter_procd``: becomes the privileged process, run by path and without site-packages."""

from __future__ import annotations

import os
import sys

from condor_starter.procd import main as procd_main


def main() -> None:
    """Exec procd with our arguments; never returns."""
    argv = [sys.executable, "-I", "-S", procd_main.__file__, *sys.argv[1:]]
    os.execv(sys.executable, argv)
