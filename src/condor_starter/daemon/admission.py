"""Who may have a job run as whom, and how many."""

from __future__ import annotations

import os
import pwd
import time
from typing import Any

from condor_starter.communicators.api import STREAMS, captured
from condor_starter.communicators.base import ClassAd
from condor_starter.daemon.httpd import ApiError, Peer
from condor_starter.daemon.jobs import Jobs
from condor_starter.daemon.store import Submission
from condor_starter.job import JobSpec

MOST_ALIVE = 10000
MOST_ALIVE_PER_USER = 2000
_OWNERS = ("OsUser", "Owner", "User")


def room(jobs: Jobs, peer: Peer) -> None:
    """Raise ApiError 429 when there are too many jobs, of this user or of all."""
    if jobs.alive_count() >= MOST_ALIVE:
        raise ApiError(429, f"{MOST_ALIVE} jobs wait or run here; submit again when some have ended.")
    if jobs.alive_count(peer.uid) >= MOST_ALIVE_PER_USER:
        raise ApiError(429, f"You have {MOST_ALIVE_PER_USER} jobs here; submit again when some have ended.")


def settle_owner(ad: ClassAd, peer: Peer, facts: dict[str, Any]) -> str:
    """Write into ``ad`` the account that the job runs as, and return it.

    A user's job runs as that user; root's as whoever its ad names. Raises ApiError 403.
    """
    if not facts.get("root"):
        return _own_account(ad, peer)
    if peer.uid == 0:
        return _named(ad)
    if peer.uid == os.getuid():
        raise ApiError(403, "The starter's own account cannot submit jobs: they could reach the starter.")
    return claim(ad, _name_of(peer.uid))


def submission(peer: Peer, user: str, spec: JobSpec) -> Submission:
    """The submission of a job that ``peer`` sends now."""
    kept = captured(spec)
    streams = {s: "" if s in kept else os.path.join(spec.iwd, getattr(spec.streams, s)) for s in STREAMS}
    return Submission(peer.uid, user, spec.cmd[:256] or "(the image's)", streams, submitted_at=time.time())


def _own_account(ad: ClassAd, peer: Peer) -> str:
    """Without privilege there is one account for all jobs: ours."""
    if peer.uid not in (0, os.getuid()):
        raise ApiError(403, "This starter has no privileges: it runs jobs of its own account only.")
    return claim(ad, _name_of(os.getuid()))


def _named(ad: ClassAd) -> str:
    """The account that root's ad names; never the starter's own."""
    user = next((n for n in (_text(ad, a) for a in ("OsUser", "User", "Owner")) if n), "")
    try:
        if user and pwd.getpwnam(user).pw_uid in (0, os.getuid()):
            raise ApiError(403, f"Jobs do not run as {user}: name another account in Owner.")
    except KeyError:
        raise ApiError(
            403, f"There is no account {user} on this machine: name another one in Owner."
        ) from None
    if not user:
        raise ApiError(400, 'Root\'s jobs run as somebody else: write Owner = "account" into the ad.')
    ad["OsUser"] = user  # what was checked is what is used, whatever the ad computes
    return user


def claim(ad: ClassAd, name: str) -> str:
    """Make ``name`` the owner. ApiError 403: an ad that says somebody else is a mistake or an attempt."""
    for attribute in _OWNERS:
        said = _text(ad, attribute)
        if attribute in ad and said != name:
            raise ApiError(403, f"The ad says {attribute} = {said[:64]!r}, but jobs of {name} run as {name}.")
    domain = str(ad.eval("User")).partition("@")[2] if "User" in ad else ""
    ad["OsUser"] = ad["Owner"] = name
    ad["User"] = f"{name}@{domain or os.uname().nodename}"
    return name


def _text(ad: ClassAd, attribute: str) -> str:
    """The attribute as an account name, without a domain; "" if it is none."""
    value = ad.eval(attribute) if attribute in ad else ""
    return value.partition("@")[0] if isinstance(value, str) else ""


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        raise ApiError(403, f"Your uid {uid} has no account on this machine.") from None
