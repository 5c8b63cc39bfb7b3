"""StarterLog: the log that operators read, in HTCondor's own line format.

A line is ``MM/DD/YY HH:MM:SS (pid:N) <header>text``. Nothing that comes out of a job (a file name, an
argument, an engine's answer) can start a line of its own: control characters are written as escapes.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import TextIO

from condor_starter import __version__

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
MAX_LINE = 16384
"""Characters of one text: a hostile ad may not fill the disk with one line."""


def escape(text: str) -> str:
    """``text`` on one line: control characters and surrogates as ``\\xNN`` or ``\\uNNNN``."""
    clean = _CONTROL.sub(lambda m: m[0].encode("unicode_escape").decode(), text)
    return clean if len(clean) <= MAX_LINE else clean[:MAX_LINE] + f"... ({len(clean)} characters)"


class StarterLog:
    """One log: a file that is rotated, or an open stream. Never raises for a full disk: the job goes on.

    ``target`` is a path, a text stream (stderr for ``-t``), or None for no log at all. ``header`` stands
    before every text (``-header``). ``limit`` is MAX_STARTER_LOG in bytes; 0 never rotates. ``pid`` is the
    process that the startd knows as its starter; 0 is ours. The file is opened for appending at the first
    line, so that two starters of one slot can share it.
    """

    def __init__(
        self, target: Path | TextIO | None, header: str = "", *, limit: int = 0, pid: int = 0
    ) -> None:
        self._path = target if isinstance(target, Path) else None
        self._stream = None if isinstance(target, Path) else target
        self._header = header
        self._limit = limit
        self._pid = pid
        self._fd: int | None = None
        self._size = 0
        self.trouble = ""  # why the last line could not be written

    def say(self, text: str, **fields: object) -> None:
        """One line; ``fields`` are appended as ``key=value``."""
        words = "".join(f" {k}={v}" for k, v in fields.items())
        stamp = time.strftime("%m/%d/%y %H:%M:%S")
        self._write(f"{stamp} (pid:{self._whose()}) {self._header}{escape(text + words)}\n")

    def _whose(self) -> int:
        return self._pid or os.getpid()

    def banner(self, program: str, *versions: str) -> None:
        """The start-up lines by which operators and tools find the beginning of a run.

        ``versions``: what the program says to its peers, ``$CondorVersion: ...$`` and the platform.
        """
        bar = "*" * 54
        lines = [
            bar,
            "** condor_starter (CONDOR_STARTER) STARTING UP",
            f"** {program}",
            "** SubsystemInfo: name=STARTER type=STARTER(7) class=DAEMON(1)",
            "** Configuration: subsystem:STARTER local:<NONE> class:DAEMON",
            f"** condor_starter in Python {__version__}",
            *(f"** {version}" for version in versions),
            f"** PID = {self._whose()} RealUID = {os.getuid()}",
            f"** Log last touched {self._last_touched()}",
            bar,
        ]
        for line in lines:
            self.say(line)

    def goodbye(self, status: int) -> None:
        """The last line of a run."""
        self.say(f"**** condor_starter (condor_STARTER) pid {self._whose()} EXITING WITH STATUS {status}")

    def close(self) -> None:
        """Close the file; a later line opens it again. A stream is its owner's."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _last_touched(self) -> str:
        try:
            when = os.stat(self._path).st_mtime if self._path else None
        except OSError:
            when = None
        return time.strftime("%m/%d %H:%M:%S", time.localtime(when)) if when else "time unavailable"

    def _write(self, line: str) -> None:
        try:
            if self._path is not None:
                self._append(self._path, line.encode("utf-8", "backslashreplace"))
            elif self._stream is not None:
                self._stream.write(line)
                self._stream.flush()
            self.trouble = ""
        except (OSError, ValueError) as e:  # full, or closed: a log never stops a job
            self.trouble = str(e)
            self.close()

    def _append(self, path: Path, data: bytes) -> None:
        if self._fd is None:
            self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self._size = os.fstat(self._fd).st_size
        if self._limit and self._size and self._size + len(data) > self._limit:
            self.close()
            os.replace(path, path.with_name(path.name + ".old"))
            return self._append(path, data)
        self._size += os.write(self._fd, data)
