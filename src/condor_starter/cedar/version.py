"""Versions of HTCondor: which one we say we are, and which one a peer says it is.

Peers decide by our version which messages they may send us. 24.0.1 is the oldest stable release that has
everything that we implement, and nothing after it that we do not: a shadow nests chirp's delayed attributes
from 25.3, stages common files from 25.2, and expects questions for guidance from no version at all.
"""

from __future__ import annotations

import platform
import re

from condor_starter import __version__

CONDOR_VERSION = f"$CondorVersion: 24.0.1 2024-10-31 PackageID: condor_starter-in-python-{__version__} $"
CONDOR_PLATFORM = f"$CondorPlatform: {platform.machine().upper()}-condor_starter_in_python $"

_NUMBERS = re.compile(r"(\d{1,4})\.(\d{1,4})\.(\d{1,4})")


def version_of(text: str) -> tuple[int, int, int]:
    """The numbers in a version string (``$CondorVersion: 23.9.6 ...$`` or ``23.9.6``); (0, 0, 0) if there
    are none.
    """
    match = _NUMBERS.search(text)
    return (int(match[1]), int(match[2]), int(match[3])) if match else (0, 0, 0)
