"""Named chroots from the ad to the exit status: a tree of another userland, by `starterctl run`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from system.run_help import ROOT, Hand, sh

pytestmark = pytest.mark.skipif(not ROOT, reason="needs root: pivot_root")

APPLETS = ("sh", "ls", "cat", "id", "echo", "touch", "ps", "readlink", "sleep")


@pytest.fixture
def hand(unique: str) -> Iterator[Hand]:
    """Beneath /var/lib: the private /var/tmp of a job does not cover it, and everything above is root's."""
    base = Path("/var/lib") / unique
    base.mkdir(mode=0o755)
    found = Hand(base, unique)
    yield found
    assert found.left() == []
    shutil.rmtree(base)


@pytest.fixture
def tree(hand: Hand) -> Path:
    """A root tree of one static program, as an admin would keep it."""
    top = hand.home.parent / "tree"
    for name in ("bin", "dev", "proc", "sys", "etc", "tmp", "var/tmp", "var/lib", "data"):
        (top / name).mkdir(parents=True, mode=0o755)
    shutil.copy("/bin/busybox", top / "bin" / "busybox")
    for name in APPLETS:
        (top / "bin" / name).symlink_to("busybox")
    (top / "etc" / "os-release").write_text("NAME=elsewhere\n")
    (top / "etc" / "passwd").write_text("elsewhere:x:65534:65534::/:/bin/sh\n")
    return top


def options(tree: Path, *more: str) -> list[str]:
    return [w for k in (f"NAMED_CHROOT=old={tree},other=/srv/other", *more) for w in ("--knob", k)]


def job(script: str, name: str = "old") -> str:
    return sh(f"PATH=/bin; {script}", RequestedChroot=name, RequestMemory=64)


@pytest.mark.req("C1", "C3", "P2")
def test_the_job_sees_the_tree_and_nothing_of_the_host(hand: Hand, tree: Path) -> None:
    ran = hand.run(job("cat /etc/os-release; ls /; readlink /proc/1/root || echo hidden"), *options(tree))
    assert ran.status == 0, ran
    words = ran.out.split()
    assert words[0] == "NAME=elsewhere" and {"bin", "data", "proc", "tmp"} <= set(words)
    assert "srv" not in words and "home" not in words


@pytest.mark.req("C1", "S1")
def test_the_scratch_directory_is_at_its_own_path_and_takes_the_output(hand: Hand, tree: Path) -> None:
    script = "cd $_CONDOR_SCRATCH_DIR && cat .job.ad && echo x > made && ls -a $_CONDOR_SCRATCH_DIR/.."
    ran = hand.run(job(script), *options(tree))
    assert ran.status == 0, ran
    assert 'RequestedChroot = "old"' in ran.out and ran.out.split()[-1].startswith("dir_")
    assert len([w for w in ran.out.split() if w.startswith("dir_")]) == 1


@pytest.mark.req("N1", "N3", "P6")
def test_the_box_is_as_tight_as_any(hand: Hand, tree: Path) -> None:
    script = "echo $$; id -u; echo x > /tmp/private; ls /tmp; echo y > /bin/new || echo read-only; ls /dev"
    ran = hand.run(job(script), *options(tree))
    words = ran.out.split()
    assert int(words[0]) < 10 and words[1] == "65534" and "private" in words and "read-only" in words
    assert {"null", "zero", "urandom", "shm"} <= set(words) and "sda" not in words
    assert not (tree / "tmp" / "private").exists() and not (tree / "bin" / "new").exists()


@pytest.mark.req("G4", "C1")
def test_its_exit_status_and_its_limits_are_a_jobs(hand: Hand, tree: Path) -> None:
    assert hand.run(job("exit 9"), *options(tree)).status == 9
    plan = hand.call("starterctl", "explain", *options(tree), "-", stdin=job("true"))
    assert "Backend chroot: the job has RequestedChroot = old" in plan.out
    assert "Root:       old" in plan.out and "memory=64 MiB" in plan.out


@pytest.mark.req("C1", "X9")
def test_a_name_that_is_not_configured_holds_the_job(hand: Hand, tree: Path) -> None:
    ran = hand.run(job("true", "../../etc"), *options(tree))
    assert ran.status == 230 and "no named chroot of this machine (old, other)" in ran.err


@pytest.mark.req("C2", "P6")
@pytest.mark.parametrize("how", ["writable", "foreign", "link"])
def test_a_tree_that_somebody_else_could_have_changed_is_not_used(hand: Hand, tree: Path, how: str) -> None:
    path = tree
    if how == "writable":
        tree.chmod(0o777)
    elif how == "foreign":
        shutil.chown(tree, 65534, 65534)
    else:
        path = tree.with_name("link")
        path.symlink_to(tree)
    ran = hand.run(job("echo ran"), *options(path))
    assert ran.status == 231 and ran.out == "" and path.name in ran.err, ran


@pytest.mark.req("C1", "X9")
def test_a_program_that_is_not_in_the_tree_is_named(hand: Hand, tree: Path) -> None:
    ran = hand.run('Cmd = "/usr/bin/python3"\nRequestedChroot = "old"\nOsUser = "nobody"\n', *options(tree))
    assert ran.status == 230 and "Failed to execute '/usr/bin/python3': (errno=2" in ran.err
