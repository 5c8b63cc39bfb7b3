"""Who starterd is: the unprivileged account that it becomes when it was started as root."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from typing import NamedTuple


class AccountError(Exception):
    """No account to run as; the text says what to do."""


class Account(NamedTuple):
    """An account to run as, and in words why it is this one."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    name: str
    why: str


def unprivileged(environ: Mapping[str, str], condor_ids: str = "") -> Account:
    """The account to become: CONDOR_IDS ("uid.gid", environment before knob), else condor, else daemon.

    Not root: the account that we are. Raises AccountError for ids that are malformed or root's.
    """
    if os.geteuid():
        return _of_uid(os.geteuid(), os.getegid(), "not started as root")
    ids = environ.get("_CONDOR_CONDOR_IDS") or environ.get("CONDOR_IDS") or condor_ids
    if ids:
        return _from_ids(ids)
    for name in ("condor", "daemon"):
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        if found.pw_uid:
            why = f"account {name}" + ("" if name == "condor" else ", because there is no account condor")
            return _of_uid(found.pw_uid, found.pw_gid, why)
    raise AccountError("There is no account to run as: create the account condor, or set CONDOR_IDS=uid.gid.")


def become(account: Account) -> None:
    """Take the account's ids for good. Raises OSError, or AccountError when root could be had back."""
    if os.geteuid() == 0:
        os.setgroups(account.groups)
        os.setresgid(account.gid, account.gid, account.gid)
        os.setresuid(account.uid, account.uid, account.uid)
    if 0 in os.getresuid() or os.getresgid() != (account.gid,) * 3:
        raise AccountError(f"Still not {account.name} after changing ids: refusing to go on.")
    try:
        os.setuid(0)
    except PermissionError:
        return
    raise AccountError("Root can be had back after dropping it: refusing to go on.")


def _from_ids(ids: str) -> Account:
    uid, _, gid = ids.strip().strip('"').partition(".")
    if not (uid.isdigit() and gid.isdigit()):
        raise AccountError(f"CONDOR_IDS is {ids!r}: expected uid.gid, two numbers.")
    if not int(uid) or not int(gid):
        raise AccountError(f"CONDOR_IDS is {ids!r}: starterd never runs as root.")
    return _of_uid(int(uid), int(gid), "CONDOR_IDS")


def _of_uid(uid: int, gid: int, why: str) -> Account:
    try:
        name = pwd.getpwuid(uid).pw_name
        groups = tuple(os.getgrouplist(name, gid))
    except KeyError:
        name, groups = str(uid), (gid,)
    return Account(uid, gid, groups, name, why)
