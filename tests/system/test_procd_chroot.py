"""Named chroots by procd: a real tree becomes the job's root, and a tree that is not safe is refused."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from condor_starter.isolation.boxplan import BoxPlan, Identity, Stdio
from condor_starter.procd.client import Procd, ProcdError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: pivot_root")

BUSYBOX = "/bin/busybox"
NAMES = ("sh", "ls", "cat", "id", "echo", "test", "touch", "mount")


@pytest.fixture
def place() -> Iterator[Path]:
    base = Path(f"/var/lib/chroot-test-{os.getpid()}")
    (base / "execute").mkdir(parents=True)
    yield base
    shutil.rmtree(base)


@pytest.fixture
def tree(place: Path) -> Path:
    """A small root tree, as an admin would make one."""
    root = place / "tree"
    for name in ("bin", "dev", "proc", "sys", "etc", "tmp", "var/tmp", "var/lib"):
        (root / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, root / "bin" / "busybox")
    for name in NAMES:
        (root / "bin" / name).symlink_to("busybox")
    (root / "etc" / "os-release").write_text("NAME=elsewhere\n")
    suid = root / "bin" / "suid-id"
    shutil.copy(BUSYBOX, suid)
    suid.chmod(0o4755)
    return root


def run(place: Path, tree: Path, script: str, *, chroot: str = "old") -> str:
    """What ``script`` wrote when run in the tree."""

    async def body(procd: Procd) -> str:
        wish = plan(place, script, chroot)
        await procd.make(wish.box, wish.kind, wish.execute, wish.scratch, wish.cgroup)
        try:
            await procd.start(wish)
            await asyncio.wait_for(procd.exit(wish.box), 30)
            worker = await procd.worker(wish.box)
            fd = await worker.open("out")
            worker.close()
            with os.fdopen(fd) as f:
                return f.read()
        finally:
            await procd.exit(wish.box)
            await procd.destroy(wish.box)

    return asyncio.run(with_procd(place, tree, body))


async def with_procd(place: Path, tree: Path, body: Callable[[Procd], Awaitable[str]]) -> str:
    procd = await Procd.spawn(
        {
            "execute": str(place / "execute"),
            "run": str(place / "run"),
            "client": "0",
            "base_cgroup": f"chroot-test-{os.getpid()}",
            "named_chroot": f"old={tree}",
        }
    )
    try:
        return await body(procd)
    finally:
        await procd.close()


def plan(place: Path, script: str, chroot: str) -> BoxPlan:
    scratch = f"{place}/execute/dir_1"
    return BoxPlan(
        box="chroot-1",
        cgroup="chroot-1",
        kind="box",
        execute=str(place / "execute"),
        scratch="dir_1",
        identity=Identity(65534, 65534, (), "nobody"),
        argv=("/bin/sh", "-c", script),
        env=("PATH=/bin",),
        cwd=scratch,
        stdout=Stdio("out"),
        stderr=Stdio("err"),
        namespaces=("pid", "mnt", "ipc", "uts"),
        chroot=chroot,
        private_dirs=("/tmp", "/var/tmp"),
    )


@pytest.mark.req("C1", "C3", "N12")
def test_the_tree_is_the_jobs_root_and_the_host_is_not_there(place: Path, tree: Path) -> None:
    out = run(place, tree, "cat /etc/os-release; pwd; test -e /root && echo host; ls /; id")
    assert "NAME=elsewhere" in out
    assert f"{place}/execute/dir_1" in out
    assert "host" not in out
    assert "uid=65534" in out


@pytest.mark.req("C2")
def test_devices_proc_and_private_directories_are_there(place: Path, tree: Path) -> None:
    script = (
        "echo x >/dev/null && echo null; ls -a /tmp /var/tmp; touch /tmp/mine && echo tmp;"
        "touch /dev/shm/x && echo shm; cat /proc/self/comm; ls /dev; echo pid $$; ls /proc | grep -c self"
    )
    out = run(place, tree, script)
    for word in ("null", "tmp", "shm", "cat", "urandom", "zero", "pid 2"):
        assert word in out.split("\n") or word in out, word
    assert not (tree / "tmp" / "mine").exists()
    assert [p.name for p in (tree / "dev").iterdir()] == []


@pytest.mark.req("P6", "C2")
def test_nothing_leads_out_and_set_uid_programs_give_nothing(place: Path, tree: Path) -> None:
    script = f"cd /; cd ../../..; ls; suid-id id; ls {place}/execute; touch /bin/new || echo readonly"
    out = run(place, tree, script)
    assert "uid=0" not in out
    assert "boot" not in out
    assert out.count("dir_1") == 1  # its own scratch directory and no neighbour's
    assert "readonly" in out


@pytest.mark.req("C2", "P6")
def test_a_tree_that_others_can_change_is_refused(place: Path, tree: Path) -> None:
    tree.chmod(0o777)
    with pytest.raises(ProcdError, match="can be changed by others"):
        run(place, tree, "echo no")


@pytest.mark.req("C2", "P6")
@pytest.mark.parametrize("name", ["proc", "dev", "tmp"])
def test_a_tree_with_a_link_in_the_place_of_a_mount_point_is_refused(
    place: Path, tree: Path, name: str
) -> None:
    (tree / name).rmdir()
    (tree / name).symlink_to("/etc")
    with pytest.raises(ProcdError) as caught:
        run(place, tree, "echo no")
    assert caught.value.step == "mounts"
