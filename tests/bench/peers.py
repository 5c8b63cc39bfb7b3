"""The peers of a box cycle: what each is given to do, and whether it is here and works.

Each makes and removes what it isolates by itself, for the same static program. They isolate different things:
the notes say what.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from bench.machine import HERE, MEMORY, NAME, PIDS, SHARES, Place

TIMEOUT = 120.0


class Peer(NamedTuple):
    """One peer: an argv that prints microseconds a line when the number of cycles stands for ``N``."""

    name: str
    argv: list[str]
    note: str
    factor: float = 1.0  # cycles in its turn, as a part of ours: the slow ones take fewer

    def turn(self, cycles: int) -> list[float]:
        """Milliseconds of each cycle. Raises RuntimeError with what it said."""
        number = str(max(1, round(cycles * self.factor)))
        words = [number if word == "N" else word for word in self.argv]
        done = subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT)
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
            raise RuntimeError(f"exit status {done.returncode}: {' '.join(said)}")
        return [float(line) / 1e3 for line in done.stdout.split()]


def all_peers(place: Place) -> tuple[list[Peer], list[str]]:
    """The peers that are here and work, and why the others are left out."""
    candidates = [*_limits(place), _spawn(place), _unshare(place), _bwrap(place)]
    candidates += [_oci(place, name) for name in ("crun", "runc")]
    found, missing = [], []
    for peer in candidates:
        try:
            peer.turn(1)
            found.append(peer)
        except (RuntimeError, OSError, subprocess.TimeoutExpired) as e:
            missing.append(f"{peer.name}: {e}")
    return found, missing


def _loop(argv: list[str]) -> list[str]:
    return [sys.executable, "-I", "-S", str(HERE / "loop.py"), "N", *argv]


def _limits(place: Place) -> list[Peer]:
    values = {
        "memory": f"memory.limit_in_bytes={MEMORY}",
        "cpu": f"cpu.shares={SHARES}",
        "pids": f"pids.max={PIDS}",
    }
    dirs = place.cgroups.dirs
    v1 = [f"{dirs[c]}:{file}" for c, file in values.items() if c in dirs]
    v2 = dirs.get("v2", "-")
    if not v1 and v2 != "-":
        v2 += f":memory.max={MEMORY},cpu.weight={SHARES},pids.max={PIDS}"
    scratch = place.disk / "limit"
    for name in ("tmp", "vartmp", "fresh"):
        (scratch / name).mkdir(parents=True)
    program = [place.program("limit"), "N", place.program("true")]
    same = "clone3 of the same five namespaces, the same cgroups and limits, the same mounts"
    return [
        Peer("C, the kernel's limit", [*program, str(scratch), v2, *v1], f"{same}; its directories exist"),
        Peer(
            "C with a scratch directory",
            [*program, f"+{scratch / 'fresh'}", v2, *v1],
            "the same, and the directories are made, shown without neighbours, and removed",
        ),
    ]


def _spawn(place: Place) -> Peer:
    return Peer("posix_spawn", _loop([place.program("true")]), "nothing is isolated")


def _unshare(place: Place) -> Peer:
    words = ["unshare", "-mpniu", "--fork", "--mount-proc", place.program("true")]
    return Peer("unshare", _loop(words), "five namespaces and /proc; no limits, no private /tmp")


def _bwrap(place: Place) -> Peer:
    words = ["bwrap", *(f"--unshare-{name}" for name in ("pid", "net", "ipc", "uts")), "--bind", "/", "/"]
    words += ["--tmpfs", "/tmp", "--tmpfs", "/var/tmp", "--tmpfs", "/dev/shm", "--proc", "/proc"]
    return Peer("bwrap", _loop([*words, place.program("true")]), "five namespaces; no limits", 0.25)


def _oci(place: Place, name: str) -> Peer:
    """An OCI runtime's ``run``: it makes, starts, waits for and deletes a container."""
    bundle = place.disk / name
    (bundle / "rootfs").mkdir(parents=True)
    state = place.run / name
    state.mkdir()
    note = "five namespaces, limits, a root and /dev of its own, masked /proc"
    words = [name, "--root", str(state), "run", "--bundle", str(bundle), f"{NAME}-{name}"]
    if shutil.which(name) is None:
        return Peer(name, [name], note)
    shutil.copy(place.program("true"), bundle / "rootfs" / "true")
    subprocess.run([name, "spec"], cwd=bundle, check=True, capture_output=True, timeout=TIMEOUT)
    _fit(bundle / "config.json", f"/{NAME}/{name}")
    if name == "crun" and place.cgroups.kind == "hybrid":
        hide = f"umount -l '{os.path.dirname(place.cgroups.dirs['v2'])}' && exec \"$@\""
        words = ["unshare", "-m", "sh", "-c", hide, "sh", *_loop(words)]
        return Peer(name, words, f"{note}; in a mount namespace without the v2 tree, which it refuses", 0.25)
    return Peer(name, _loop(words), note, 0.25)


def _fit(path: Path, cgroup: str) -> None:
    """The runtime's own default configuration, with our program and limits."""
    config = json.loads(path.read_text())
    config["process"] |= {"terminal": False, "args": ["/true"], "rlimits": []}
    config["linux"] |= {
        "cgroupsPath": cgroup,
        "namespaces": [{"type": t} for t in ("pid", "mount", "ipc", "uts", "network")],
        "resources": {"memory": {"limit": MEMORY}, "cpu": {"shares": SHARES}, "pids": {"limit": PIDS}},
    }
    config["mounts"] = [m for m in config["mounts"] if m["type"] != "cgroup"]
    path.write_text(json.dumps(config))
