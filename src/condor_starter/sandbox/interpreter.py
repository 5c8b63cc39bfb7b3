"""Why a script that is there cannot be executed: the interpreter in its first line is not."""

from __future__ import annotations

import os
import stat

from condor_starter.isolation.boxplan import BoxPlan
from condor_starter.procd.client import Procd, ProcdError, ProcdGone

_MOST = 256  # BINPRM_BUF_SIZE: the kernel reads no more of the first line


async def missing_interpreter(procd: Procd, plan: BoxPlan) -> str:
    """The interpreter that ``plan``'s program names, if that is what does not exist; else "".

    A program in the scratch directory is read by the sandbox worker; one of the machine's only if everybody
    may read it: the answer shows the job nothing that it could not see itself.
    """
    program = plan.argv[0]
    scratch = f"{plan.execute}/{plan.scratch}/"
    try:
        if program.startswith(scratch):
            line = await _through_worker(procd, plan.box, program.removeprefix(scratch))
        else:
            line = _world_readable(program)
    except (OSError, ProcdError, ProcdGone):
        return ""
    words = line.removeprefix(b"#!").split() if line.startswith(b"#!") else []
    name = words[0].decode(errors="replace") if words else ""
    return name if name and not os.path.exists(name) else ""


async def _through_worker(procd: Procd, box: str, name: str) -> bytes:
    worker = await procd.worker(box)
    try:
        fd = await worker.open(name)
    finally:
        worker.close()
    return _first_line(fd)


def _world_readable(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or not found.st_mode & stat.S_IROTH:
        os.close(fd)
        return b""
    return _first_line(fd)


def _first_line(fd: int) -> bytes:
    try:
        return os.read(fd, _MOST).partition(b"\n")[0]
    finally:
        os.close(fd)
