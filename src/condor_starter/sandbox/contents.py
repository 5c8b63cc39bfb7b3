"""What the starter itself puts into a fresh scratch directory, and what is in one.

A fresh directory is nobody's but ours: no job runs that could swap a name under us. Once the job has started,
only the sandbox worker goes in.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, NamedTuple

import classad2

from condor_starter.job import Blame, Hold, JobError
from condor_starter.sandbox.ads import print_ad
from condor_starter.sandbox.environment import JOB_AD, MACHINE_AD
from condor_starter.sandbox.worker import Entry

ClassAd = Any
"""A ``classad2.ClassAd``. The library has no type information."""

OURS = frozenset(
    {
        *(JOB_AD, MACHINE_AD, ".update.ad", ".update.ad.tmp", ".execution_overlay.ad", ".chirp.config"),
        *(".job_wrapper_failure", ".docker_sock", ".docker_stdout", ".docker_stderror"),
    }
)
"""Names that are never part of a job's output."""

# HTCondor's private attributes: whoever knows them can act in the name of the claim or of the transfer.
_SECRET = frozenset(
    {"capability", "childclaimids", "claimid", "claimidlist", "claimids", "pairedclaimid", "transferkey"}
)


def public_ad(ad: ClassAd) -> str:
    """The ad as text for the job's eyes: without HTCondor's private attributes."""
    secret = [n for n in ad.keys() if n.lower() in _SECRET or n.lower().startswith("_condor_priv")]  # noqa: SIM118
    if secret:
        shown = classad2.ClassAd()
        shown.update(ad)
        for name in secret:
            del shown[name]
        ad = shown
    return print_ad(ad)


def write_ads(scratch: str, job: ClassAd, machine: ClassAd) -> None:
    """Write ``.job.ad`` and ``.machine.ad`` into the fresh directory ``scratch``. Raises JobError."""
    try:
        for name, ad in ((JOB_AD, job), (MACHINE_AD, machine)):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(f"{scratch}/{name}", flags, 0o644), "w", encoding="utf-8") as f:
                f.write(public_ad(ad))
    except OSError as e:
        text = f"Cannot write {e.filename or name} into the scratch directory: {e.strerror}."
        raise JobError(Hold.SCRATCH_DIR_ERROR, e.errno or 0, text, Blame.SITE) from None


class Stamp(NamedTuple):
    """By what a later change of a file shows; that it got its owner at job start does not show in it."""

    size: int
    mtime_ns: int
    inode: int


class Catalog:
    """The top-level files of a sandbox before the job ran; :meth:`changed` tells what the job made of it."""

    def __init__(self, stamps: dict[str, Stamp]) -> None:
        self._stamps = stamps

    @classmethod
    def of_fresh(cls, scratch: str) -> Catalog:
        """Of a directory that is still ours, after the inputs have arrived."""
        with os.scandir(scratch) as entries:
            stats = {e.name: e.stat(follow_symlinks=False) for e in entries}
        return cls({n: Stamp(s.st_size, s.st_mtime_ns, s.st_ino) for n, s in stats.items()})

    def changed(self, entries: Iterable[Entry]) -> list[str]:
        """Names of regular files that are new or not as they were, sorted; never our own files."""
        return sorted(
            e.name
            for e in entries
            if e.kind == "file"
            and e.name not in OURS
            and self._stamps.get(e.name) != Stamp(e.size, e.mtime_ns, e.inode)
        )
