"""The box's init: pid 1 of its pid namespace, or the subreaper of a box that has none.

It runs as the job's user without any privilege. It starts the job, forwards signals to it, reaps everything
that is orphaned, and as its last act writes one line of numbers into the status file that procd opened for
it: exit status, duration, cpu times, peak rss, and how many processes the job left behind. When pid 1 exits
the kernel kills the rest of the namespace; a subreaper kills what is left of its tree itself.
"""

from __future__ import annotations

import os
import resource
import signal
import time

from condor_starter.procd import tree

_ALL = set(range(1, signal.NSIG))
_FORWARD = _ALL - {
    signal.SIGCHLD,
    signal.SIGKILL,
    signal.SIGSTOP,
    signal.SIGTSTP,
    signal.SIGTTIN,
    signal.SIGTTOU,
}


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
        setsigdef=_ALL - {signal.SIGKILL, signal.SIGSTOP, 32, 33},  # 32 and 33 are glibc's own
    )


def block_signals() -> None:
    """Keep every signal for :func:`tend`; call before the job exists."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _ALL)


def tend(main: int, status_fd: int, pid_namespace: bool) -> None:
    """Reap and forward until the job's main process has ended, then leave the status and exit."""
    started = time.monotonic()
    status = -1
    while status < 0:
        info = signal.sigwaitinfo(_ALL)
        if info.si_signo == signal.SIGCHLD:
            status = _reap(main)
        elif info.si_signo in _FORWARD:
            _forward(main, info.si_signo)
    duration = time.monotonic() - started
    left = _others_here() if pid_namespace else tree.kill_children()
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
