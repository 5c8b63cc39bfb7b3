"""A client as a crash test needs one: a private procd, one box, to its end (execute run box pause_at)."""

from __future__ import annotations

import asyncio
import os
import sys

from condor_starter.isolation.boxplan import BoxPlan, Identity, Limits, Stdio
from condor_starter.procd.client import Procd

BASE = "crash-test"
NAMESPACES = ("pid", "mnt", "ipc", "uts", "cgroup", "net")


def plan(execute: str, box: str, *argv: str) -> BoxPlan:
    """A fully isolated box for nobody."""
    return BoxPlan(
        box=box,
        cgroup=box,
        kind="box",
        execute=execute,
        scratch=f"dir_{box}",
        identity=Identity(65534, 65534, (), "nobody"),
        argv=argv,
        env=("PATH=/usr/bin:/bin",),
        cwd=f"{execute}/dir_{box}",
        stdout=Stdio("out"),
        namespaces=NAMESPACES,
        private_dirs=("/tmp", "/var/tmp"),
        limits=Limits(memory=64 << 20, swap=0, cpu_shares=100, pids=100),
    )


async def main(execute: str, run: str, box: str, pause_at: str) -> None:
    settings = {"execute": execute, "run": run, "client": str(os.getuid()), "base_cgroup": BASE}
    procd = await Procd.spawn(settings | ({"pause_at": pause_at} if pause_at else {}))
    wish = plan(execute, box, "/bin/sh", "-c", "setsid env -i /bin/sleep 4711 & sleep 0.2")
    await procd.make(box, wish.kind, execute, wish.scratch, wish.cgroup)
    await procd.start(wish)
    await procd.exit(box)
    await procd.destroy(box)
    await procd.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
