"""The state directory: one directory a job, so that a job and its end outlive starterd.

``<state>/jobs/<number>/`` belongs to starterd alone (mode 0700) and holds

* ``job.ad``           the ad as it was submitted,
* ``submission.json``  who submitted it, and when,
* ``record.json``      how far it is (:class:`condor_starter.starter.JobRecord`),
* ``outcome.json``     its one terminal record, written exactly once (link(2) refuses a second),
* ``final.ad``         its last update ad,
* ``StarterLog``       its log,
* ``stdout, stderr``   the streams that its ad names no files for,
* ``suspended``        while it is.

A new job is made as ``<number>.new`` and renamed when it is whole: what was never acknowledged to its
submitter leaves nothing that could be taken for a job. Files are not synced: they have to survive processes;
after a machine's crash the job is dead anyway, and a torn file is a job that failed by the system.
"""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from condor_starter.starter import JobRecord


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


class Folder:
    """The directory of one job."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.number = int(path.name)

    def ad(self) -> str:
        """The ad as it was submitted. Raises OSError, ValueError."""
        return (self.path / "job.ad").read_text(encoding="utf-8")

    def submission(self) -> Submission:
        """Raises OSError, ValueError, TypeError for one that is torn."""
        return Submission(**json.loads((self.path / "submission.json").read_bytes()))

    def record(self) -> JobRecord:
        """Raises OSError, ValueError, TypeError for one that is torn."""
        return JobRecord.load(self.path / "record.json")

    def outcome(self) -> dict[str, Any] | None:
        """The terminal record, or None while there is none. A torn one raises ValueError."""
        try:
            outcome = json.loads((self.path / "outcome.json").read_bytes())
        except FileNotFoundError:
            return None
        if not isinstance(outcome, dict):
            raise ValueError(f"{self.path}/outcome.json is not a terminal record")
        return outcome

    def finish(self, outcome: dict[str, Any], final_ad: str) -> bool:
        """Write the terminal record; False if there is one already, which then stands. Raises OSError."""
        (self.path / "final.ad").write_text(final_ad, encoding="utf-8", errors="backslashreplace")
        temporary = self.path / "outcome.tmp"
        temporary.write_text(json.dumps(outcome), encoding="utf-8")
        try:
            os.link(temporary, self.path / "outcome.json")
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        return True

    def mark_suspended(self, yes: bool) -> None:
        """Remember whether the job is suspended, for the next starterd. Raises OSError."""
        if yes:
            (self.path / "suspended").touch(0o600)
        else:
            (self.path / "suspended").unlink(missing_ok=True)

    def suspended(self) -> bool:
        """Whether the job was suspended when this was last remembered."""
        return (self.path / "suspended").exists()

    def size(self) -> int:
        """Bytes that this job takes here."""
        with os.scandir(self.path) as entries:
            return sum(e.stat(follow_symlinks=False).st_blocks * 512 for e in entries)

    def remove(self) -> None:
        """Forget the job: renamed first, so that no half of it comes to life again."""
        gone = self.path.with_name(f"{self.number}.gone")
        os.rename(self.path, gone)
        _clear(gone)


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

    def folders(self) -> list[Folder]:
        """Every job's directory, oldest first; clears away what a crash left half made or half removed."""
        for name in os.listdir(self._jobs):
            if name.endswith((".new", ".gone")):
                _clear(self._jobs / name)
        return [Folder(self._jobs / str(n)) for n in sorted(self._numbers())]

    def create(self, ad: str, submission: Submission) -> tuple[Folder, JobRecord]:
        """A new job with its record in stage "accepted". Raises OSError."""
        number, self._next = self._next, self._next + 1
        os.pwrite(self._lock, b"%d\n" % number, 0)
        new = self._jobs / f"{number}.new"
        new.mkdir(mode=0o700)
        (new / "job.ad").write_text(ad, encoding="utf-8")
        (new / "submission.json").write_text(json.dumps(asdict(submission)), encoding="utf-8")
        record = JobRecord(id=str(number), path=new / "record.json")
        record.save()
        folder = Folder(self._jobs / str(number))
        os.rename(new, folder.path)
        record.path = folder.path / "record.json"
        return folder, record

    def close(self) -> None:
        """Let go of the lock."""
        os.close(self._lock)

    def _numbers(self) -> list[int]:
        """Numbers in use; those that are only half there, too, until they are cleared away."""
        return [int(n) for n in os.listdir(self._jobs) if n.isdigit()]


def _clear(path: Path) -> None:
    for name in os.listdir(path):
        os.unlink(path / name)
    path.rmdir()
