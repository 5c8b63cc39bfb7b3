"""The box's init: pid 1 of its pid namespace, or the subreaper of a box that has none.

It runs as the job's user without any privilege. It starts the job, forwards signals to it, reaps everything
that is orphaned, and as its last act writes one line of numbers into the status file that procd opened for
it, behind BEGUN: exit status, duration, cpu times, peak rss, and how many processes the job left behind. When
pid 1 exits the kernel kills the rest of the namespace; a subreaper kills what is left of its tree itself.
"""

from __future__ import annotations

import _signal  # the module "signal" turns every number into an enum, which costs a child many copied pages
import os
import resource
import time

from condor_starter.procd import descent

BEGUN = b"begun\n"
"""What stands in the status file before the job is executed: without it nothing of the job ever ran."""

SIGKILL = 9
_SIGCHLD, _SIGSTOP = 17, 19
_ALL = frozenset(range(1, _signal.NSIG)) - {32, 33}  # those two are glibc's own
FAREWELL = 64  # SIGRTMAX: procd has died, and a box without a pid namespace must end its tree itself
_FORWARD = _ALL - {_SIGCHLD, SIGKILL, _SIGSTOP, 20, 21, 22, FAREWELL}  # 20..22: the terminal's stops
_RESET = tuple(_ALL - {SIGKILL, _SIGSTOP})


def spawn(argv: tuple[str, ...], env: tuple[str, ...], stdio: tuple[int, int, int]) -> int:
    """Execute the job in a session of its own with clean signals; returns its pid, raises OSError."""
    actions: list[tuple[int, ...]] = [(os.POSIX_SPAWN_DUP2, fd, to) for to, fd in enumerate(stdio)]
    return os.posix_spawn(
        argv[0],
        argv,
        dict(e.partition("=")[::2] for e in env),
        file_actions=actions,
        setsid=True,
        setsigmask=(),
        setsigdef=_RESET,
    )


def block_signals() -> None:
    """Keep every signal for :func:`tend`; call before the job exists."""
    _signal.pthread_sigmask(_signal.SIG_BLOCK, _ALL)


def tend(main: int, status_fd: int, pid_namespace: bool) -> None:
    """Reap and forward until the job's main process has ended, then leave the status and exit."""
    started = time.monotonic()
    status = -1
    while status < 0:
        info = _signal.sigwaitinfo(_ALL)
        if info.si_signo == _SIGCHLD:
            status = _reap(main)
        elif info.si_signo == FAREWELL:
            status = SIGKILL
        elif info.si_signo in _FORWARD:
            _forward(main, info.si_signo)
    duration = time.monotonic() - started
    left = _others_here() if pid_namespace else descent.kill_children()
    cpu = resource.getrusage(resource.RUSAGE_CHILDREN)
    numbers = (status, duration * 1e6, cpu.ru_utime * 1e6, cpu.ru_stime * 1e6, cpu.ru_maxrss, left)
    os.write(status_fd, " ".join(str(int(n)) for n in numbers).encode())


def _others_here() -> int:
    """Processes of this pid namespace but ourselves; the kernel kills them when we exit."""
    return sum(name.isdigit() for name in os.listdir("/proc")) - 1


def _reap(main: int) -> int:
    """Reap all that has ended; the main process' status, or -1."""
    found = -1
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == main:
            found = status


def _forward(main: int, signum: int) -> None:
    try:
        os.kill(main, signum)
    except ProcessLookupError:
        pass  # it has ended; its SIGCHLD is on the way
