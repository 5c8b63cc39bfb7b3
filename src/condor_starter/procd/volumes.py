"""Scratch directories: made for the client to fill, given to the job's user, removed without a trace."""

from __future__ import annotations

import os

from condor_starter.procd import fds

INLINE_ENTRIES = 300
"""A directory with more entries than this is removed by a child, so that nobody waits for it."""


class Scratch:
    """One scratch directory, by descriptor of its parent; ``fd`` is the directory itself while it exists."""

    def __init__(self, execute: str, name: str) -> None:
        """Of directory ``name`` beneath ``execute``, which may not exist yet. Raises OSError."""
        self.path = f"{execute}/{name}"
        self._name = name
        self._parent = fds.open_directory(execute)
        self.fd = -1

    def exists(self) -> bool:
        """Whether something of that name is there, whatever it is."""
        try:
            os.stat(self._name, dir_fd=self._parent, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def make(self, owner: int) -> None:
        """Make it, mode 0700, for ``owner`` (the unprivileged client) to fill."""
        os.mkdir(self._name, 0o700, dir_fd=self._parent)
        self.open()
        if os.geteuid() == 0:
            os.fchown(self.fd, owner, -1)

    def open(self) -> None:
        """Open the existing directory (adoption)."""
        self.fd = fds.open_beneath(self._parent, self._name, os.O_RDONLY | os.O_DIRECTORY)

    def remove(self, budget: int = INLINE_ENTRIES) -> bool:
        """Remove it; False when there is more than ``budget`` entries' work left (-1: to the end)."""
        return fds.remove_tree(self._parent, self._name, budget)

    def close(self) -> None:
        """Let go of the descriptors."""
        os.close(self._parent)
        if self.fd >= 0:
            os.close(self.fd)
