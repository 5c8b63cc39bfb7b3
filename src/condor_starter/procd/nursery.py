"""The nursery: a small process that clones the boxes' inits, one ahead of the next box.

After a clone each side copies every page that it writes, and in Python a look at an object is a write; the
page tables are copied, too. So procd, which holds all boxes and never stops working, does not clone inits
itself: it splits this child off as its very first act. What runs here imports next to nothing (no typing,
json or socket: build.py and all that it uses, too), and does nothing between two clones. CLONE_PARENT makes
an init procd's own child all the same: procd reaps it, and it dies with procd where that is wanted
(PR_SET_PDEATHSIG).

One SOCK_SEQPACKET socket, whose other end procd alone holds (spares.py): a request is the names of the
namespaces, the answer the pid of an init that has them and waits for its order, with its pidfd and the socket
for the order; or ``!`` and an errno. When procd's end closes, the nursery ends.

A request that begins with ``/`` is the cgroup.procs of a cgroup to enter, and has no answer: it is where the
nursery is anyhow, and what counts is that the kernel has moved a process (Spares.expect says why).
"""

from __future__ import annotations

import _socket
import gc
import os

from condor_starter.procd import build, init, passing, syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

SEQPACKET = (_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0)
MAX_REQUEST = 256  # bytes


def split_off() -> tuple[_socket.socket, int]:
    """Start the nursery: procd's end of its socket, and its pid. Raises OSError."""
    ours, theirs = _socket.socketpair(*SEQPACKET)
    pid, pidfd = syscalls.clone(0)
    if pid == 0:
        _main(theirs)
    os.close(pidfd)
    theirs.close()
    return ours, pid


def _main(control: _socket.socket) -> NoReturn:
    """The nursery, from its first instruction to its last: nothing may ever return from here."""
    try:
        _settle(control.fileno())
        while request := control.recv(MAX_REQUEST):
            if request.startswith(b"/"):
                _enter(request)
            else:
                _clone(control, request)
    finally:
        os._exit(0)


def _settle(control: int) -> None:
    """Let go of what is procd's; what holds for every init is done here, once, and inherited."""
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, init.SIGKILL)
    syscalls.close_all_but({control})
    while (fd := os.open("/dev/null", os.O_RDWR)) < 3:
        pass  # descriptors 0, 1 and 2 are never anything else's
    os.close(fd)
    os.chdir("/")
    os.umask(0)
    os.setsid()
    syscalls.set_name("starter_init")
    init.block_signals()
    if os.geteuid() == 0:
        syscalls.drop_bounding_set()
    gc.disable()  # a collection would write to every page
    gc.freeze()


def _enter(procs: bytes) -> None:
    """Move ourselves into a cgroup; what fails here will fail for the box, which says so."""
    try:
        fd = os.open(procs, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        os.write(fd, b"0")
    except OSError:
        pass
    os.close(fd)


def _clone(control: _socket.socket, request: bytes) -> None:
    """One init. Every page that is touched here while the child lives is copied: keep it short."""
    ours, theirs = _socket.socketpair(*SEQPACKET)
    namespaces = request.decode().split(",") if request != b"-" else []
    flags = syscalls.CLONE_PARENT
    for name in namespaces:
        if name != "cgroup":  # unshared by the child once it is in its cgroup, so that it is rooted there
            flags |= syscalls.NAMESPACE_FLAGS[name]
    try:
        pid, pidfd = syscalls.clone(flags)
    except OSError as e:
        control.send(b"!%d" % (e.errno or 0))
    else:
        if pid == 0:
            control.close()
            ours.close()
            build.wait_and_become(namespaces, theirs)
        passing.send_fds(control, b"%d" % pid, [pidfd, ours.fileno()])
        os.close(pidfd)
    ours.close()
    theirs.close()
