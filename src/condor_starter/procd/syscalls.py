"""The kernel calls that Python has no name for: ctypes once, one error exit.

Every function raises OSError with errno, and the call with its arguments in the text. Numbers and structures:
clone(2), openat2(2), mount(2), pivot_root(2), prctl(2), capabilities(7), keyctl(2).
"""

from __future__ import annotations

import ctypes
import os

# clone(2), namespaces(7)
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_PIDFD = 0x00001000
CLONE_PARENT = 0x00008000
CLONE_INTO_CGROUP = 0x200000000

NAMESPACE_FLAGS = {
    "pid": CLONE_NEWPID,
    "mnt": CLONE_NEWNS,
    "ipc": CLONE_NEWIPC,
    "uts": CLONE_NEWUTS,
    "net": CLONE_NEWNET,
    "cgroup": CLONE_NEWCGROUP,
}

# mount(2)
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MNT_DETACH = 2

# openat2(2)
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

# prctl(2)
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NAME = 15
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

CAP_SYS_ADMIN = 21

# clone3, openat2 and close_range have the same number on every architecture
_CLONE3, _CLOSE_RANGE, _OPENAT2 = 435, 436, 437
_KEYCTL = {"x86_64": 250, "aarch64": 219, "riscv64": 219, "ppc64le": 271, "s390x": 280}.get(
    os.uname().machine
)
_KEYCTL_JOIN_SESSION_KEYRING = 1

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.mount.argtypes = (
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_char_p,
)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)
_libc.pivot_root.argtypes = (ctypes.c_char_p, ctypes.c_char_p)
_libc.prctl.argtypes = (ctypes.c_int,) + (ctypes.c_ulong,) * 4
_libc.unshare.argtypes = (ctypes.c_int,)


class _CloneArgs(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "flags",
            "pidfd",
            "child_tid",
            "parent_tid",
            "exit_signal",
            "stack",
            "stack_size",
            "tls",
            "set_tid",
            "set_tid_size",
            "cgroup",
        )
    ]


class _OpenHow(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


def _checked(result: int, call: str, *args: object) -> int:
    """The single error exit: OSError with the call as it was made."""
    if result < 0:
        errno = ctypes.get_errno()
        words = ", ".join(str(a) for a in args)
        raise OSError(errno, f"{call}({words}): {os.strerror(errno)}")
    return result


def clone(flags: int, cgroup_fd: int = -1) -> tuple[int, int]:
    """clone3(2) as fork(2): (0, -1) in the child, (pid, pidfd) in the parent; SIGCHLD on exit.

    With CLONE_PARENT the child is our parent's, which then hears of its exit as it would of ours.

    For a single-threaded process only. With ``cgroup_fd`` the child is born in that v2 cgroup.
    """
    pidfd = ctypes.c_int(-1)
    args = _CloneArgs(flags=flags | CLONE_PIDFD, pidfd=ctypes.addressof(pidfd))
    args.exit_signal = 0 if flags & CLONE_PARENT else 17
    if cgroup_fd >= 0:
        args.flags |= CLONE_INTO_CGROUP
        args.cgroup = cgroup_fd
    pid = _checked(
        _libc.syscall(_CLONE3, ctypes.byref(args), ctypes.sizeof(args)), "clone3", hex(flags), cgroup_fd
    )
    return pid, pidfd.value


def unshare(flags: int) -> None:
    _checked(_libc.unshare(flags), "unshare", hex(flags))


def openat2(dirfd: int, path: str, flags: int, resolve: int, mode: int = 0) -> int:
    """openat2(2); the descriptor is close-on-exec."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    name = os.fsencode(path)
    for _ in range(16):  # EAGAIN: a rename raced with a ".." or symlink lookup
        fd = _libc.syscall(_OPENAT2, dirfd, name, ctypes.byref(how), ctypes.sizeof(how))
        if fd >= 0 or ctypes.get_errno() != 11:
            break
    return _checked(fd, "openat2", dirfd, repr(path))


def close_range(first: int, last: int) -> None:
    if first <= last:
        _checked(_libc.syscall(_CLOSE_RANGE, first, last, 0), "close_range", first, last)


def close_on_exec_from(first: int) -> None:
    """Mark every descriptor from ``first`` on close-on-exec (CLOSE_RANGE_CLOEXEC, Linux 5.11)."""
    _checked(_libc.syscall(_CLOSE_RANGE, first, 0xFFFFFFFF, 4), "close_range", first, "CLOEXEC")


def close_all_but(keep: set[int]) -> None:
    """Close every descriptor that is not in ``keep``."""
    low = 0
    for fd in [*sorted(keep), 0xFFFFFFFF]:
        close_range(low, fd - 1)
        low = fd + 1


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    _checked(
        _libc.mount(
            source.encode(), os.fsencode(target), kind.encode() or None, flags, data.encode() or None
        ),
        "mount",
        source,
        target,
        kind or "-",
        hex(flags),
    )


def umount(target: str, flags: int = MNT_DETACH) -> None:
    _checked(_libc.umount2(os.fsencode(target), flags), "umount2", target)


def pivot_root(new: str, old: str) -> None:
    _checked(_libc.pivot_root(new.encode(), old.encode()), "pivot_root", new, old)


def prctl(option: int, value: int = 0) -> int:
    return _checked(_libc.prctl(option, value, 0, 0, 0), "prctl", option, value)


def set_name(name: str) -> None:
    """Our name in /proc/PID/comm, at most 15 bytes."""
    _checked(
        _libc.prctl(PR_SET_NAME, ctypes.addressof(ctypes.create_string_buffer(name.encode())), 0, 0, 0),
        "prctl",
    )


def drop_bounding_set() -> None:
    """Remove every capability from the bounding set, so that no exec can bring one back."""
    for cap in range(64):
        if _libc.prctl(PR_CAPBSET_DROP, cap, 0, 0, 0):
            if ctypes.get_errno() == 22:  # EINVAL: past the last capability that this kernel knows
                return
            _checked(-1, "prctl", "PR_CAPBSET_DROP", cap)


def new_session_keyring() -> None:
    """keyctl(2) KEYCTL_JOIN_SESSION_KEYRING: a keyring of the job's own."""
    if _KEYCTL is not None:
        _checked(_libc.syscall(_KEYCTL, _KEYCTL_JOIN_SESSION_KEYRING, None), "keyctl", "JOIN_SESSION_KEYRING")


def has_capability(cap: int) -> bool:
    """True if ``cap`` is in our effective set (proc(5), CapEff)."""
    with open("/proc/self/status") as f:
        for line in f:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> cap & 1)
    return False
