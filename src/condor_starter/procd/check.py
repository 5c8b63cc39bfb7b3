"""Whether a plan may be carried out here: every field against procd's own settings, before anything is made.

The planner is not trusted: it parses what strangers wrote. What passes here can harm nobody but the job.
"""

from __future__ import annotations

import os
import pwd
import re
import resource
import time

from condor_starter.isolation.boxplan import KINDS, NAMESPACES, BoxPlan, Identity, PlanError, Stdio
from condor_starter.procd.settings import Settings, SettingsError, account_uid

_BOX = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_CGROUP = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,119}")
_SCRATCH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_HOSTNAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,62}")
_MAX_ID = 2**31 - 1

ACCOUNT_SECONDS = 10.0
"""How long it may take until a job is refused a group that its user has left."""

_known_groups: dict[int, tuple[float, frozenset[int]]] = {}


def names(box: str, kind: str, execute: str, scratch: str, cgroup: str, settings: Settings) -> None:
    """Raise PlanError unless these may name a box, its place and its cgroup."""
    _match(_BOX, box, "box")
    _match(_CGROUP, cgroup, "cgroup")
    _match(_SCRATCH, scratch, "scratch")
    if kind not in KINDS:
        raise PlanError(f"kind: {kind!r} is none of {', '.join(KINDS)}")
    if execute not in settings.execute:
        raise PlanError(f"execute: {execute!r} is none of procd's execute directories {settings.execute}")


def plan(plan: BoxPlan, descriptors: int, settings: Settings) -> None:
    """Raise PlanError unless ``plan`` may be carried out with ``descriptors`` passed descriptors."""
    names(plan.box, plan.kind, plan.execute, plan.scratch, plan.cgroup, settings)
    identity(plan.identity, settings)
    if not plan.no_new_privs:
        raise PlanError("no_new_privs: must be true: set-uid programs do not work in a box")
    _namespaces(plan)
    _process(plan)
    for name in ("stdin", "stdout", "stderr"):
        _stream(name, getattr(plan, name), descriptors)
    for directory in plan.private_dirs:
        _absolute("private_dirs", directory)
    for bind in plan.binds:
        _absolute("binds.target", bind.target)
        _allowed_source(bind.source, settings)
    if plan.chroot and plan.chroot not in settings.chroots:
        known = ", ".join(settings.chroots) or "none"
        raise PlanError(f"chroot: {plan.chroot!r} is no named chroot of this machine (known: {known})")


def identity(who: Identity, settings: Settings) -> None:
    """Raise PlanError unless jobs may run as ``who`` here."""
    uid, gid = who.uid, who.gid
    if uid == os.geteuid() != 0:
        return
    if not 0 < uid <= _MAX_ID or not 0 < gid <= _MAX_ID:
        raise PlanError(f"identity: uid {uid} gid {gid} is refused: jobs never run as root")
    if os.geteuid():
        raise PlanError(f"identity: uid {uid} needs root; procd runs as uid {os.geteuid()}")
    if uid < settings.min_uid and uid not in _allowed(settings):
        raise PlanError(f"identity: uid {uid} is below min_uid {settings.min_uid} and not in allow_users")
    extra = {gid, *who.groups} - _groups_of(uid)
    if extra:
        raise PlanError(f"identity: uid {uid} is no member of group {min(extra)}")


def _allowed(settings: Settings) -> set[int]:
    uids = set()
    for name in settings.allow_users:
        try:
            uids.add(account_uid(name))
        except SettingsError:
            continue  # an account that this machine does not have
    return uids


def _groups_of(uid: int) -> frozenset[int]:
    """The groups that the account database gives to ``uid``; a uid without account gets its own number.

    Remembered for ACCOUNT_SECONDS: the database may be a directory service on the network.
    """
    asked, groups = _known_groups.get(uid, (0.0, frozenset()))
    now = time.monotonic()
    if not groups or now - asked > ACCOUNT_SECONDS:
        groups = _ask_groups(uid)
        _known_groups[uid] = now, groups
    return groups


def _ask_groups(uid: int) -> frozenset[int]:
    try:
        account = pwd.getpwuid(uid)
    except KeyError:
        return frozenset({uid})
    return frozenset(os.getgrouplist(account.pw_name, account.pw_gid))


def _match(pattern: re.Pattern[str], text: str, where: str) -> None:
    if not pattern.fullmatch(text):
        raise PlanError(f"{where}: {text!r} is not a usable name ({pattern.pattern})")


def _namespaces(plan: BoxPlan) -> None:
    unknown = set(plan.namespaces) - set(NAMESPACES)
    if unknown:
        raise PlanError(f"namespaces: unknown {sorted(unknown)[0]!r}")
    mounts = plan.private_dirs or plan.binds or plan.chroot or "pid" in plan.namespaces
    if mounts and "mnt" not in plan.namespaces:
        raise PlanError("namespaces: private_dirs, binds, chroot and a pid namespace need 'mnt'")
    if plan.hostname:
        _match(_HOSTNAME, plan.hostname, "hostname")
        if "uts" not in plan.namespaces:
            raise PlanError("hostname: needs the uts namespace")
    if plan.kind != "box" and plan.namespaces:
        raise PlanError(f"namespaces: a {plan.kind} has none")


def _process(plan: BoxPlan) -> None:
    if plan.kind != "container" and not (plan.argv and plan.argv[0].startswith("/")):
        raise PlanError("argv: needs an absolute path to execute")
    if any("=" not in e or e.startswith("=") for e in plan.env):
        raise PlanError("env: entries are NAME=value")
    if not 0 <= plan.nice <= 19:
        raise PlanError(f"nice: {plan.nice} is not in 0..19")
    for limit in plan.rlimits:
        if not hasattr(resource, f"RLIMIT_{limit.name}"):
            raise PlanError(f"rlimits: no limit is named {limit.name!r}")
        if min(limit.soft, limit.hard) < -1:
            raise PlanError(f"rlimits: {limit.name} is negative")
    for name, value in plan.limits._asdict().items():
        if value is not None and not 0 <= value < 2**62:
            raise PlanError(f"limits: {name}={value} is not a limit")


def _stream(name: str, stream: Stdio, descriptors: int) -> None:
    if stream.path is not None and stream.fd is not None:
        raise PlanError(f"{name}: has both a path and a descriptor")
    if stream.fd is not None and not 0 <= stream.fd < descriptors:
        raise PlanError(f"{name}: descriptor {stream.fd} did not come with the request")


def _absolute(where: str, path: str) -> None:
    if path[:1] != "/" or path[:2] == "//" or os.path.normpath(path) != path or path == "/":
        raise PlanError(f"{where}: expected an absolute path without '..', got {path!r}")


def _allowed_source(source: str, settings: Settings) -> None:
    _absolute("binds.source", source)
    for prefix in settings.bind_allow:
        if source == prefix or source.startswith(prefix + "/"):
            return
    raise PlanError(f"binds.source: {source!r} is not in bind_allow; the admin of this machine decides that")
