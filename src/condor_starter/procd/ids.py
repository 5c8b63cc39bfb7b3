"""Who the job is: from procd's ids to the job user's, for good, and the checks that it worked.

The order is fixed: limits and keyring while we may, groups before ids, ids last, then a look whether root
can be had back (CVE-2012-3490 was an unchecked setuid). The bounding set is gone by then: the nursery dropped
it once for all inits, a sandbox worker does it for itself.
"""

from __future__ import annotations

import os
import resource

from condor_starter.procd import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from condor_starter.isolation.boxplan import BoxPlan, Identity, Rlimit


def limit(plan: BoxPlan) -> list[str]:
    """Set rlimits, nice, umask and oom_score_adj on ourselves; returns what could not be had, in words."""
    notes = [note for r in plan.rlimits if (note := _set_rlimit(r))]
    if plan.nice > 0:
        os.nice(plan.nice)
    os.umask(plan.umask & 0o777)
    try:
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"%d" % max(0, min(1000, plan.oom_score_adj)))
        finally:
            os.close(fd)
    except OSError as e:
        notes.append(f"oom_score_adj {plan.oom_score_adj}: {e.strerror}")
    return notes


def _set_rlimit(wanted: Rlimit) -> str:
    """One limit, clamped to our own hard limit: raising that takes CAP_SYS_RESOURCE, which we may lack."""
    which = getattr(resource, f"RLIMIT_{wanted.name}", None)
    if which is None:
        return f"rlimit {wanted.name}: not known here"
    top = resource.getrlimit(which)[1]
    hard = _lower(wanted.hard, top)
    resource.setrlimit(which, (_lower(wanted.soft, hard), hard))
    return "" if hard == wanted.hard else f"rlimit {wanted.name}: {wanted.hard} clamped to {hard}"


def _lower(a: int, b: int) -> int:
    if resource.RLIM_INFINITY in (a, b):
        return b if a == resource.RLIM_INFINITY else a
    return min(a, b)


def become(identity: Identity) -> None:
    """Take the job user's ids and lose every privilege for good. Raises OSError; then exit, do not go on."""
    if os.geteuid() == 0:
        os.setgroups(sorted({identity.gid, *identity.groups}))
        os.setresgid(identity.gid, identity.gid, identity.gid)
        os.setresuid(identity.uid, identity.uid, identity.uid)
        _no_way_back(identity)
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)  # no ptrace and no /proc/PID/mem from the job


def _no_way_back(identity: Identity) -> None:
    if os.getresuid() != (identity.uid,) * 3 or os.getresgid() != (identity.gid,) * 3:
        raise PermissionError(1, "the ids did not change")
    try:
        os.setuid(0)
    except PermissionError:
        return
    raise PermissionError(1, "root can be had back")
