"""Which account a job runs as, by HTCondor's rules; never root."""

from __future__ import annotations

import functools
import os
import pwd
from dataclasses import dataclass

from condor_starter.isolation.boxplan import Identity
from condor_starter.job import Blame, Hold, JobError, JobSpec
from condor_starter.knobs import Knobs


@dataclass(frozen=True, slots=True)
class Account:
    """The job's account: what procd needs, and what the job's environment needs."""

    identity: Identity
    home: str  # "" = the uid has no passwd entry
    why: str  # in words, for the log


class NoAccount(JobError):
    """The account that the job names does not exist here, or jobs may not run as it."""

    def __init__(self, text: str, blame: Blame = Blame.USER) -> None:
        super().__init__(Hold.FAILED_TO_ACCESS_USER_ACCOUNT, 0, text, blame)


def choose(spec: JobSpec, knobs: Knobs, *, root: bool, uid: int, slot: str, as_owner: bool = True) -> Account:
    """The account for ``spec``. Raises :class:`NoAccount`.

    ``root``, ``uid``: procd's own; without root everything runs as that uid. ``as_owner``: the job wants to
    run as its owner (RunAsOwner) and its accounts are ours (UID_DOMAIN). Otherwise, in order:
    SLOT<n>_USER, NOBODY_SLOT_USER.
    """
    if not root:
        return _by_uid(uid)
    if as_owner and spec.owner and knobs.flag("STARTER_ALLOW_RUNAS_OWNER"):
        return _by_name(spec.owner, "the job's owner", Blame.USER)
    if as_owner and not spec.owner:
        raise NoAccount('The job names no account: write OsUser = "account" into its ad.')
    for knob in _slot_knobs(slot):
        if name := knobs.text(knob):
            return _by_name(name, knob, Blame.SITE)
    return _by_name(knobs.text("NOBODY_SLOT_USER"), "NOBODY_SLOT_USER", Blame.SITE)


def _slot_knobs(slot: str) -> list[str]:
    """SLOT1_2_USER and SLOT1_USER for slot1_2."""
    name = slot.partition("@")[0].upper()
    if not name.startswith("SLOT") or not name[4:].replace("_", "").isdigit():
        return []
    return [f"{name}_USER"] + ([f"{name.partition('_')[0]}_USER"] if "_" in name else [])


def _by_name(name: str, why: str, blame: Blame) -> Account:
    try:
        entry = pwd.getpwnam(name)
    except (KeyError, ValueError):
        raise NoAccount(f"There is no account {name!r} ({why}) on this machine.", blame) from None
    if entry.pw_uid == 0 or entry.pw_gid == 0:
        raise NoAccount(f"The account {name!r} ({why}) is root's: jobs never run as root.", blame)
    groups = tuple(g for g in os.getgrouplist(name, entry.pw_gid) if g)
    return Account(Identity(entry.pw_uid, entry.pw_gid, groups, entry.pw_name), entry.pw_dir, why)


@functools.cache
def _by_uid(uid: int) -> Account:
    why = "condor_starter_procd does not run as root"
    try:
        entry = pwd.getpwuid(uid)
        return Account(Identity(uid, entry.pw_gid, (), entry.pw_name), entry.pw_dir, why)
    except KeyError:
        return Account(Identity(uid, os.getgid(), (), str(uid)), "", why)
