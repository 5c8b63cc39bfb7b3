"""What a job's ad may decide: whose account it gets, and how long it may take to leave."""

from __future__ import annotations

from typing import Any

from condor_starter import attributes
from condor_starter.attributes import BadAttribute
from condor_starter.job import BadAd
from condor_starter.knobs import Knobs
from condor_starter.sandbox.machine import host_name

ClassAd = Any
"""A ``classad2.ClassAd``. The library has no type information."""


def own_accounts(ad: ClassAd, knobs: Knobs, submit_host: str) -> bool:
    """True if account names in an ad that a shadow brought mean this machine's accounts.

    They do if the job's UidDomain is ours and we believe it: because TRUST_UID_DOMAIN says so, because the
    submit machine's name is within the domain, or because it is this machine (TRUST_LOCAL_UID_DOMAIN).
    """
    ours = (knobs.text("UID_DOMAIN") or host_name()).lower()
    try:
        theirs = (attributes.text(ad, "UidDomain") or "").lower()
    except BadAttribute as e:
        raise BadAd(f"The job ad cannot be used: {e}") from None
    if theirs != ours:
        return False
    host = submit_host.lower()
    if knobs.flag("TRUST_UID_DOMAIN") or host == ours or host.endswith(f".{ours}"):
        return True
    return knobs.flag("TRUST_LOCAL_UID_DOMAIN") and is_local(host)


def is_local(host: str) -> bool:
    """True for a name or address of this machine that needs no name server to be known."""
    return host in ("localhost", host_name().lower(), "::1") or host.startswith("127.")


def vacate_seconds(ad: ClassAd, knobs: Knobs) -> float:
    """Seconds between a job's kill signal and SIGKILL: the machine's limit, or what the job asks, if less."""
    limit = knobs.number("MACHINEMAXVACATETIME")
    for name in ("JobMaxVacateTime", "KillSigTimeout"):
        try:
            wish = attributes.number(ad, name)
        except BadAttribute:
            wish = None  # a bad wish is no wish
        if wish is not None:
            return max(0.0, min(limit, wish))
    return limit
