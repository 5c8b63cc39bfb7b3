"""The state directory: one journal a job, so that a job and its end outlive starterd.

``<state>/jobs/<number>`` belongs to starterd alone (mode 0600) and is only appended to, one JSON object a
line: first ``ad`` (as it was submitted) and ``submission``, then ``record`` at each change of stage
(:class:`condor_starter.record.JobRecord`), ``begun`` when procd is asked to start it, ``suspended``, and
``log`` for lines of its StarterLog; at last ``outcome``, its one terminal record, with ``final``, its last
update ad. The streams that the ad names no files for are kept beside it, as ``<number>.stdout`` and
``<number>.stderr``, if there is anything in them.

One file and appends, because making a file costs a hundred times what appending to one does. Nothing is
synced: this has to survive processes; after a machine's crash the job is dead anyway, and a torn line is as
if it had never been written.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import io
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO, cast

from condor_starter.record import JobRecord

_STREAMS = ("stdout", "stderr")


class StateError(Exception):
    """The state directory cannot be used; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Submission:
    """Who wants a job to be run."""

    uid: int  # of the process that submitted it, by SO_PEERCRED
    user: str  # the account to run it as
    cmd: str  # the program, for lists
    streams: dict[str, str]  # stdout and stderr: the file on the host, or "" for one that is captured
    submitted_at: float  # wall clock, seconds since the epoch


class KeptRecord(JobRecord):
    """A job's record that is saved into the job's journal."""

    __slots__ = ("journal",)
    journal: Journal

    @classmethod
    def of(cls, journal: Journal, state: dict[str, Any]) -> KeptRecord:
        """From what :meth:`save` wrote, or {} for a new one. Raises TypeError for anything else."""
        record = cls(**({"id": str(journal.number)} | state))
        record.journal = journal
        return record

    def save(self) -> None:
        """Append to the journal. Raises OSError."""
        names = ("box", "stage", "started_at", "plan", "exit")
        self.journal.note(record={name: getattr(self, name) for name in names})


@dataclass(frozen=True, slots=True)
class Left:
    """A job as its journal tells it."""

    journal: Journal
    ad: str
    submission: Submission
    record: KeptRecord
    begun: bool  # procd was asked to start it: it may have run
    outcome: dict[str, Any] | None  # the terminal record


class Journal:
    """The journal of one job. Owns a descriptor while it is open for appending."""

    def __init__(self, path: Path, fd: int = -1) -> None:
        self.path = path
        self.number = int(path.name)
        self._fd = fd
        self._finished = False
        self._said: list[str] = []  # lines of the log that are not written yet

    def note(self, **facts: Any) -> None:
        """Append ``facts``. Raises OSError (ENOSPC: nothing of it is there then)."""
        if self._said:
            self.flush()
        line = json.dumps(facts, separators=(",", ":")).encode() + b"\n"
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
            line = b"\n" + line  # the last one may be torn: this one starts on its own
        written = os.write(self._fd, line)
        if written != len(line):
            os.ftruncate(self._fd, os.fstat(self._fd).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def log(self) -> TextIO:
        """A stream whose lines go into the journal: for StarterLog."""
        return cast(TextIO, _LogStream(self))

    def say(self, text: str) -> None:
        """Append to the job's log, together with what else is said in this turn of the event loop."""
        if not self._said:
            asyncio.get_running_loop().call_soon(self.flush)
        self._said.append(text)

    def flush(self) -> None:
        """Write what was said. A full disk loses it: a log never stops a job."""
        if self._said:
            said, self._said = "".join(self._said), []
            with contextlib.suppress(OSError):
                self.note(log=said)

    def finish(self, outcome: dict[str, Any], final_ad: str) -> bool:
        """Write the terminal record; False if there is one already, which then stands. Raises OSError."""
        if self._finished:
            return False
        self.note(outcome=outcome, final=final_ad)
        self._finished = True
        return True

    def read(self) -> Left:
        """The whole job. Raises OSError, or ValueError if not even its submission is there."""
        facts: dict[str, Any] = {}
        for line in self._lines():
            line.pop("log", None)
            if "outcome" in facts:
                line.pop("outcome", None)
            facts |= line
        try:
            record = KeptRecord.of(self, facts.get("record", {}))
            submission = Submission(**facts["submission"])
            begun = bool(facts.get("begun"))
            left = Left(self, str(facts["ad"]), submission, record, begun, facts.get("outcome"))
        except (KeyError, TypeError) as e:
            raise ValueError(f"{self.path} is not a job's journal: {e!r}") from None
        self._finished = left.outcome is not None
        return left

    def fact(self, name: str) -> Any:
        """The last value that was noted as ``name``; None if there is none. Raises OSError."""
        values = [line[name] for line in self._lines() if name in line]
        return values[-1] if values else None

    def log_text(self, limit: int) -> bytes:
        """The end of the job's StarterLog. Raises OSError."""
        text = "".join(str(line["log"]) for line in self._lines() if "log" in line)
        return text.encode("utf-8", "backslashreplace")[-limit:]

    def stream(self, name: str) -> Path:
        """Where a captured stream is kept."""
        return self.path.with_name(f"{self.number}.{name}")

    def size(self) -> int:
        """Bytes that this job takes here."""
        found = 0
        for path in (self.path, *map(self.stream, _STREAMS)):
            try:
                found += path.stat().st_blocks * 512
            except FileNotFoundError:
                continue
        return found

    def close(self) -> None:
        """Close the descriptor; a later note opens it again."""
        self.flush()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def remove(self) -> None:
        """Forget the job: its journal first, so that no half of it comes to life again."""
        self._said = []
        self.close()
        for path in (self.path, *map(self.stream, _STREAMS)):
            path.unlink(missing_ok=True)

    def _lines(self) -> list[dict[str, Any]]:
        found = []
        for line in self.path.read_bytes().split(b"\n"):
            try:
                value = json.loads(line)
            except ValueError:
                continue  # torn, or the end of the file
            if isinstance(value, dict):
                found.append(value)
        return found


class _LogStream(io.TextIOBase):
    """Lines of text as notes of a journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def write(self, text: str) -> int:
        self._journal.say(text)
        return len(text)


class Store:
    """All jobs of one starterd. Holds a lock, so that there is one starterd for a state directory."""

    def __init__(self, state: Path) -> None:
        """Make ``state``/jobs if need be. Raises StateError when it is another's, or in use."""
        self._jobs = state / "jobs"
        try:
            self._jobs.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as e:
            raise StateError(f"{state} cannot be used: {e.strerror}; make it writable for us") from e
        st = os.stat(self._jobs)
        if st.st_uid != os.geteuid() or st.st_mode & 0o077:
            raise StateError(f"{self._jobs} must belong to uid {os.geteuid()} with mode 0700")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StateError(f"another condor_starterd uses {state}") from None
        self._next = 1 + max(self._numbers(), default=0)
        last = os.pread(self._lock, 32, 0).strip()
        if last.isdigit():  # a number is never used twice, even if its job was forgotten
            self._next = max(self._next, 1 + int(last))

    def journals(self) -> list[Journal]:
        """Every job's journal, oldest first; streams that a crash left without one are removed."""
        numbers = set(self._numbers())
        for name in os.listdir(self._jobs):
            number = name.partition(".")[0]
            if number != name and not (number.isdigit() and int(number) in numbers):
                (self._jobs / name).unlink()
        return [Journal(self._jobs / str(n)) for n in sorted(numbers)]

    def create(self, ad: str, submission: Submission) -> tuple[Journal, KeptRecord]:
        """A new job in stage "accepted". Raises OSError."""
        number, self._next = self._next, self._next + 1
        os.pwrite(self._lock, b"%d\n" % number, 0)
        path = self._jobs / str(number)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        journal = Journal(path, os.open(path, flags, 0o600))
        try:
            journal.note(ad=ad, submission=asdict(submission))
        except OSError:
            journal.remove()
            raise
        return journal, KeptRecord.of(journal, {})

    def close(self) -> None:
        """Let go of the lock."""
        os.close(self._lock)

    def _numbers(self) -> list[int]:
        return [int(n) for n in os.listdir(self._jobs) if n.isdigit()]
