"""Files beneath a directory descriptor: nothing here ever follows a path that a job can change.

Removal and chown walk by descriptors (openat, O_NOFOLLOW), never cross a mount, and never leave the directory
they were given, whatever is renamed under them meanwhile.
"""

from __future__ import annotations

import os
import stat

from condor_starter.procd import syscalls

_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_BENEATH = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_MAGICLINKS | syscalls.RESOLVE_NO_SYMLINKS
_DEEP = 64  # levels that a walk keeps open; what lies deeper is first moved up


def open_directory(path: str) -> int:
    """A descriptor of the directory at absolute ``path``, none of whose components may be a symlink."""
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return open_beneath(root, path.strip("/") or ".", os.O_RDONLY | os.O_DIRECTORY)
    finally:
        os.close(root)


def open_beneath(dirfd: int, path: str, flags: int = os.O_PATH, mode: int = 0) -> int:
    """openat2 beneath ``dirfd``: no symlink, no magic link, no way out."""
    return syscalls.openat2(dirfd, path, flags, _BENEATH, mode)


def open_secure(path: str) -> int:
    """O_PATH descriptor of a directory whose every component belongs to root and only root can write.

    Raises PermissionError with the component that others could replace.
    """
    fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    here = ""
    for part in ["", *path.strip("/").split("/")]:
        if part:
            below = open_beneath(fd, part, os.O_PATH | os.O_DIRECTORY)
            os.close(fd)
            fd, here = below, f"{here}/{part}"
        st = os.fstat(fd)
        if st.st_uid not in (0, os.geteuid()) or (st.st_mode & 0o022 and not st.st_mode & stat.S_ISVTX):
            os.close(fd)
            raise PermissionError(
                13, f"{here or '/'} can be changed by others than root (uid {st.st_uid}, mode {st.st_mode:o})"
            )
    return fd


def reopen(path: str, fd: int) -> int:
    """The directory that ``fd`` is open on, as seen from our own mount namespace, where it is at ``path``.

    A descriptor belongs to the mount namespace in which it was opened, and mount(2) refuses foreign ones.
    Raises OSError if something else stands at ``path`` by now.
    """
    ours = open_directory(path)
    if os.path.samestat(os.fstat(ours), os.fstat(fd)):
        return ours
    os.close(ours)
    raise FileNotFoundError(2, f"{path} was replaced")


def ensure_directory(dirfd: int, path: str, mode: int = 0o755, owner: tuple[int, int] | None = None) -> int:
    """O_PATH descriptor of directory ``path`` beneath ``dirfd``; what is missing is made, for ``owner``.

    What is made above the last one has mode 0755.
    """
    fd = os.dup(dirfd)
    parts = [p for p in path.split("/") if p]
    for above, part in enumerate(parts, 1 - len(parts)):
        try:
            os.mkdir(part, 0o755 if above else mode, dir_fd=fd)
            if owner:
                os.chown(part, *owner, dir_fd=fd, follow_symlinks=False)
        except FileExistsError:
            pass
        finally:
            below = open_beneath(fd, part, os.O_PATH | os.O_DIRECTORY)
            os.close(fd)
        fd = below
    return fd


def proc_path(fd: int) -> str:
    """A path that names exactly what ``fd`` is open on, for calls that take only paths."""
    return f"/proc/self/fd/{fd}"


def own_tree(dirfd: int, uid: int, gid: int, from_uid: int) -> None:
    """Give the directory and everything beneath it that belongs to ``from_uid`` to ``uid``:``gid``.

    Files with other owners, and files with more than one link (somebody's else hard link), stay as they are.
    """
    with os.scandir(dirfd) as entries:
        for entry in entries:
            st = os.stat(entry.name, dir_fd=dirfd, follow_symlinks=False)
            if st.st_uid != from_uid:
                continue
            if stat.S_ISDIR(st.st_mode):
                below = os.open(entry.name, _DIR, dir_fd=dirfd)
                try:
                    own_tree(below, uid, gid, from_uid)
                finally:
                    os.close(below)
            elif st.st_nlink == 1:
                os.chown(entry.name, uid, gid, dir_fd=dirfd, follow_symlinks=False)
    os.fchown(dirfd, uid, gid)


def remove_tree(parent: int, name: str, budget: int = -1) -> bool:
    """Remove directory ``name`` in ``parent`` with everything beneath it; a missing one is no error.

    True when it is gone; False when ``budget`` entries were removed and there are more (-1: no bound).
    Raises OSError for what cannot be removed, a mount among others.
    """
    try:
        top = _enter(parent, name)
    except FileNotFoundError:
        return True
    left = [budget]
    device = os.fstat(top).st_dev
    try:
        while entries := _entries(top):  # again: what was too deep is moved to the top meanwhile
            if not _empty(top, top, entries, 0, left, device):
                return False
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=parent)
    return True


def _entries(dirfd: int) -> list[os.DirEntry[str]]:
    with os.scandir(dirfd) as entries:
        return list(entries)


def _enter(parent: int, name: str) -> int:
    """A directory of the job's, made ours to read whatever its mode; never through a link."""
    try:
        fd = os.open(name, _DIR, dir_fd=parent)
    except PermissionError:
        fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            os.chmod(proc_path(fd), 0o700)
        finally:
            os.close(fd)
        fd = os.open(name, _DIR, dir_fd=parent)
    if os.geteuid() and os.fstat(fd).st_mode & 0o700 != 0o700:
        os.fchmod(fd, 0o700)
    return fd


def _gone_if_empty(dirfd: int, name: str) -> bool:
    """Most directories are: one call instead of a dozen."""
    try:
        os.rmdir(name, dir_fd=dirfd)
    except OSError:
        return False  # not empty, a mount, or in a directory that has to be opened up first
    return True


def _empty(
    top: int, dirfd: int, entries: list[os.DirEntry[str]], depth: int, left: list[int], device: int
) -> bool:
    for entry in entries:
        if left[0] == 0:
            return False
        left[0] -= 1
        if not entry.is_dir(follow_symlinks=False):
            os.unlink(entry.name, dir_fd=dirfd)
        elif depth >= _DEEP:
            os.rename(entry.name, f".deep-{left[0]}-{entry.inode()}", src_dir_fd=dirfd, dst_dir_fd=top)
        elif not _gone_if_empty(dirfd, entry.name):
            below = _enter(dirfd, entry.name)
            try:
                if os.fstat(below).st_dev != device:
                    raise OSError(18, f"{entry.name!r} is a mount: not ours to empty")
                if not _empty(top, below, _entries(below), depth + 1, left, device):
                    return False
            finally:
                os.close(below)
            os.rmdir(entry.name, dir_fd=dirfd)
    return True
