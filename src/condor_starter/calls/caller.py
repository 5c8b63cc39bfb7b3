"""Whose starter we are."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import overload


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose starter we are: our own process, or a thin client that handed everything over."""

    env: Mapping[str, str]
    fd_of: Callable[[int], int]
    pid: int  # the startd knows the starter, and names its scratch directory, by this
    cwd: str  # "" = our own
    signals: asyncio.Queue[int]  # signals that it gets

    def complain(self, text: str) -> None:
        """One line on its standard error, if it has one that takes it."""
        try:
            os.write(self.fd_of(2), f"condor_starter: {text}\n".encode(errors="backslashreplace"))
        except (KeyError, OSError):
            pass  # a startd's starter has none; the StarterLog says the same

    @overload
    def path(self, name: str) -> str: ...
    @overload
    def path(self, name: None) -> None: ...
    def path(self, name: str | None) -> str | None:
        """A file name of the command line, as we can open it; "-" and None stay what they are."""
        return name if name in (None, "-") else os.path.join(self.cwd, name)
