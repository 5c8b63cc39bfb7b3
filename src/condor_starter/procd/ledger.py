"""The write-ahead record: what procd is about to make, so that the next procd can find and undo all of it.

One file a box, ``<run>/ledger/<box>``: JSON lines, appended with one write(2) each, always *before* the thing
is made; reading merges the lines, and a torn last line is as if it had never been written. procd holds a lock
(flock(2)) on the file for as long as it lives, so a file that can be locked belongs to nobody. Closing
appends the terminal record and renames the file to ``<run>/done/<box>``: one file is one terminal record,
however often that is interrupted and repeated. Next to it, ``<box>.status`` is where the box's init says that
it is about to execute the job (BEGUN), and leaves the exit status.

It lives on tmpfs (/run): it has to survive processes, not the machine; after a reboot the kernel has undone
the rest, and only scratch directories can be left.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from typing import Any, NamedTuple

from condor_starter.procd import init

_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW

_encode = json.JSONEncoder(separators=(",", ":")).encode  # made once: json.dumps makes one for each call


class Status(NamedTuple):
    """What a box's init wrote as its last act; times of what it reaped, in microseconds."""

    status: int  # raw wait(2) status of the main process
    duration_usec: int
    user_usec: int
    system_usec: int
    max_rss_kb: int
    leftovers: int


class Entry:
    """The ledger entry of one box; ``facts`` is what the file says so far."""

    def __init__(self, ledger: Ledger, box: str, fd: int, facts: dict[str, Any]) -> None:
        self.box = box
        self.facts = facts
        self._ledger = ledger
        self._fd = fd

    def note(self, **facts: Any) -> None:
        """Record ``facts``, written before this returns. Raises OSError (ENOSPC: nothing may be made)."""
        line = _encode(facts).encode() + b"\n"
        if os.write(self._fd, line) != len(line):
            raise OSError(28, f"ledger entry {self.box} could not be written whole")
        self.facts.update(facts)

    def status_file(self) -> int:
        """A descriptor for the box's init to write its :class:`Status` to."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(f"{self.box}.status", flags, 0o600, dir_fd=self._ledger.open_fd)

    def status(self) -> tuple[bool, Status | None]:
        """Whether the init came as far as executing the job, and what it left, if it still could.

        False is certain; True may be a moment early.
        """
        try:
            fd = os.open(f"{self.box}.status", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._ledger.open_fd)
        except FileNotFoundError:
            return False, None
        try:
            begun, _, numbers = os.read(fd, 256).partition(b"\n")
        finally:
            os.close(fd)
        words = numbers.split()
        whole = len(words) == len(Status._fields) and all(w.isdigit() for w in words)
        return begun + b"\n" == init.BEGUN, Status(*map(int, words)) if whole else None

    def close(self, **terminal: Any) -> dict[str, Any]:
        """Write the terminal record (unless an earlier, interrupted close did) and retire the entry."""
        if "terminal" not in self.facts:
            self.note(terminal=terminal)
        self._ledger.retire(self.box)
        os.close(self._fd)
        record: dict[str, Any] = self.facts["terminal"]
        return record

    def abandon(self) -> None:
        """Let go of the entry without closing it: the next procd will find it."""
        os.close(self._fd)


class Ledger:
    """The ledger directory ``<run>/ledger`` and its archive ``<run>/done``."""

    def __init__(self, run: str, keep_done: int) -> None:
        """Make both directories, ours alone; raises OSError."""
        if not os.path.isdir(run):
            os.makedirs(run)
            os.chmod(run, 0o755)  # whatever our umask is: clients come through here to the sockets
        self._run = run
        self._keep = keep_done
        self._retired = 0
        self.open_fd = self._directory("ledger")
        self._done_fd = self._directory("done")

    def create(self, box: str, **facts: Any) -> Entry:
        """A new entry, locked and with its first facts from the moment it can be seen.

        Raises FileExistsError for a box that is there already.
        """
        fd, name = self._unnamed(box)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        entry = Entry(self, box, fd, {})
        try:
            entry.note(**facts)
            os.link(name, box, src_dir_fd=self.open_fd, dst_dir_fd=self.open_fd, follow_symlinks=True)
        except OSError:
            os.close(fd)
            raise
        finally:
            if name.startswith("."):
                os.unlink(name, dir_fd=self.open_fd)
        return entry

    def _unnamed(self, box: str) -> tuple[int, str]:
        """A new file that nobody sees yet, and a name to link it by."""
        flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC
        try:
            fd = os.open(".", flags | os.O_TMPFILE, 0o600, dir_fd=self.open_fd)
            return fd, f"/proc/self/fd/{fd}"
        except OSError as e:
            if e.errno not in (errno.EOPNOTSUPP, errno.EISDIR):  # a file system without O_TMPFILE
                raise
        name = f".new-{os.getpid()}-{box}"
        return os.open(name, flags | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self.open_fd), name

    def orphans(self) -> list[Entry]:
        """Entries that no living procd holds, now locked by us."""
        entries = []
        for box in sorted(os.listdir(self.open_fd)):
            if box[0] != "." and not box.endswith(".status") and (entry := self._claim(box)):
                entries.append(entry)
        return entries

    def retire(self, box: str) -> None:
        """Move the entry to done/ and drop its status file."""
        try:
            os.unlink(f"{box}.status", dir_fd=self.open_fd)
        except FileNotFoundError:
            pass
        os.rename(box, box, src_dir_fd=self.open_fd, dst_dir_fd=self._done_fd)
        self._retired += 1
        if self._retired % 256 == 0:
            self._prune()

    def _claim(self, box: str) -> Entry | None:
        try:
            fd = os.open(box, _FLAGS | os.O_APPEND, dir_fd=self.open_fd)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.stat(box, dir_fd=self.open_fd).st_ino == os.fstat(fd).st_ino:  # not retired meanwhile
                return Entry(self, box, fd, _merge(fd))
        except (BlockingIOError, FileNotFoundError):
            pass
        os.close(fd)
        return None

    def _directory(self, name: str) -> int:
        path = f"{self._run}/{name}"
        os.makedirs(path, 0o700, exist_ok=True)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        st = os.fstat(fd)
        if st.st_uid != os.geteuid() or st.st_mode & 0o022:
            os.close(fd)
            raise PermissionError(13, f"{path} must belong to uid {os.geteuid()} and be writable by it alone")
        return fd

    def _prune(self) -> None:
        """Keep the newest ``keep_done`` terminal records."""
        names = os.listdir(self._done_fd)
        if len(names) <= self._keep:
            return
        ages = sorted((os.stat(n, dir_fd=self._done_fd).st_mtime_ns, n) for n in names)
        for _, name in ages[: len(names) - self._keep]:
            os.unlink(name, dir_fd=self._done_fd)


def _merge(fd: int) -> dict[str, Any]:
    """All facts of an entry; also mends a torn last line, so that the next one starts on its own."""
    data = os.pread(fd, os.fstat(fd).st_size, 0)
    facts: dict[str, Any] = {}
    for line in data.split(b"\n"):
        try:
            got = json.loads(line)
        except ValueError:
            continue
        if isinstance(got, dict):
            facts.update(got)
    if data and not data.endswith(b"\n"):
        os.write(fd, b"\n")
    return facts
