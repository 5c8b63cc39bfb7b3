"""procd itself, through its client: real boxes on this kernel. Root where it says so."""

from __future__ import annotations

import asyncio
import os
import pwd
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from condor_starter.isolation.boxplan import BoxExit, BoxPlan, Identity, Limits, Rlimit, Stdio
from condor_starter.procd.client import Procd, ProcdError

ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not ROOT, reason="needs root: boxes for other users")
ALL = ("pid", "mnt", "ipc", "uts", "cgroup", "net")
BASE = f"procd-test-{os.getpid()}"
NOBODY = pwd.getpwnam("nobody")


class Boxes:
    """A private procd with its own directories, and plans for it."""

    def __init__(self, procd: Procd, base: Path) -> None:
        self.procd = procd
        self.execute = base / "execute"
        self.run = base / "run"
        self.count = 0

    def plan(self, *argv: str, **fields: object) -> BoxPlan:
        """A plan with full isolation as root, a tree otherwise; the output goes to ``out`` in scratch."""
        self.count += 1
        name = f"t{os.getpid()}_{self.count}"
        scratch = f"dir_{name}"
        path = f"{self.execute}/{scratch}"
        who = Identity(NOBODY.pw_uid, NOBODY.pw_gid, (), "nobody")
        defaults: dict[str, object] = {
            "box": name,
            "cgroup": name,
            "kind": "box" if ROOT else "tree",
            "execute": str(self.execute),
            "scratch": scratch,
            "identity": who if ROOT else Identity(os.getuid(), os.getgid()),
            "argv": argv,
            "env": ("PATH=/usr/bin:/bin",),
            "cwd": path,
            "stdout": Stdio("out"),
            "stderr": Stdio("err"),
            "namespaces": ALL if ROOT else (),
            "hostname": "box" if ROOT else "",
            "private_dirs": ("/tmp", "/var/tmp") if ROOT else (),
        }
        return BoxPlan(**(defaults | fields))  # type: ignore[arg-type]

    async def make(self, plan: BoxPlan) -> str:
        return await self.procd.make(plan.box, plan.kind, plan.execute, plan.scratch, plan.cgroup)

    async def run_to_end(self, plan: BoxPlan) -> tuple[BoxExit, str]:
        """Run it; how it ended and what it wrote to stdout. The box is destroyed."""
        await self.make(plan)
        await self.procd.start(plan)
        ended = await asyncio.wait_for(self.procd.exit(plan.box), 60)
        out = await self.read(plan, "out")
        await self.procd.destroy(plan.box)
        return ended, out

    async def read(self, plan: BoxPlan, name: str) -> str:
        worker = await self.procd.worker(plan.box)
        try:
            fd = await worker.open(name)
        finally:
            worker.close()
        with os.fdopen(fd) as f:
            return f.read()

    def leftovers(self) -> list[str]:
        """Everything of ours that is still there."""
        left = [str(p) for p in self.execute.iterdir()]
        left += [str(p) for p in (self.run / "ledger").iterdir()]
        return left + [str(p) for p in Path("/sys/fs/cgroup").glob(f"*/{BASE}/*") if p.is_dir()]


WithBoxes = Callable[[Boxes], Awaitable[None]]


@pytest.fixture
def boxes(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Callable[[WithBoxes], None]:
    """Runs a coroutine with a private procd, and sees afterwards that nothing is left."""
    base = Path("/var/lib" if ROOT else tmp_path_factory.mktemp("procd")) / f"procd-test-{os.getpid()}"
    base.mkdir(exist_ok=True)
    (base / "execute").mkdir(mode=0o755, exist_ok=True)
    extra = getattr(request, "param", {})

    def run(body: WithBoxes) -> None:
        async def main() -> None:
            async for b in _private(base, extra):
                await body(b)

        asyncio.run(main())

    yield run
    for path in sorted(base.rglob("*"), key=lambda p: -len(p.parts)):
        path.rmdir() if path.is_dir() else path.unlink()
    base.rmdir()


async def _private(base: Path, extra: dict[str, str]) -> AsyncIterator[Boxes]:
    settings = {
        "execute": str(base / "execute"),
        "run": str(base / "run"),
        "client": str(os.getuid()),
        "base_cgroup": BASE,
    }
    procd = await Procd.spawn(settings | extra)
    b = Boxes(procd, base)
    try:
        yield b
    finally:
        await procd.close()
    assert b.leftovers() == []
    assert [str(p) for p in Path("/sys/fs/cgroup").glob(f"*/{BASE}")] == []


@pytest.mark.req("G8", "S1")
def test_job_runs_in_its_scratch_and_its_exit_status_is_true(boxes: Callable[[WithBoxes], None]) -> None:
    async def body(b: Boxes) -> None:
        ended, out = await b.run_to_end(b.plan("/bin/sh", "-c", "pwd; id -u; exit 7"))
        assert os.waitstatus_to_exitcode(ended.status) == 7
        assert out.splitlines()[0].startswith(str(b.execute))
        assert out.splitlines()[1] == str(NOBODY.pw_uid if ROOT else os.getuid())
        assert ended.duration_usec > 0
        assert not ended.error
        assert not ended.killed
        assert b.leftovers() == []

    boxes(body)


@needs_root
@pytest.mark.req("N1", "N3", "N10", "P3")
def test_box_sees_only_itself(boxes: Callable[[WithBoxes], None]) -> None:
    Path("/tmp/procd-canary").write_text("host")

    async def body(b: Boxes) -> None:
        script = (
            "echo $$; ls /proc | grep -c '^[0-9]'; ls -A /tmp; hostname; cat /proc/self/cgroup; ls /dev/shm"
        )
        _, out = await b.run_to_end(b.plan("/bin/sh", "-c", script + "; echo x >/tmp/mine; id -G"))
        lines = out.splitlines()
        assert int(lines[0]) < 10
        assert int(lines[1]) < 10
        assert "procd-canary" not in out
        assert "box" in lines
        assert f"t{os.getpid()}" not in out.replace(str(b.execute), "")
        assert lines[-1] == str(NOBODY.pw_gid)

    try:
        boxes(body)
        assert not Path("/tmp/mine").exists()
    finally:
        Path("/tmp/procd-canary").unlink()


@pytest.mark.req("G2", "R6", "P1")
def test_double_forked_daemon_with_clean_environment_dies_with_its_job(
    boxes: Callable[[WithBoxes], None],
) -> None:
    mark = f"31{os.getpid()}"

    async def body(b: Boxes) -> None:
        daemon = f"(setsid env -i /bin/sleep {mark} </dev/null >/dev/null 2>&1 &) & sleep 0.3; exit 3"
        ended, _ = await b.run_to_end(b.plan("/bin/sh", "-c", daemon))
        assert os.waitstatus_to_exitcode(ended.status) == 3
        assert ended.leftovers >= 1
        assert _sleepers(mark) == []

    boxes(body)


def _sleepers(mark: str) -> list[str]:
    found = []
    for proc in Path("/proc").glob("[0-9]*"):
        try:
            words = (proc / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if mark.encode() in words:
            found.append(proc.name)
    return found


@pytest.mark.req("G2", "G7")
def test_kill_empties_the_box_and_says_so(boxes: Callable[[WithBoxes], None]) -> None:
    mark = f"32{os.getpid()}"

    async def body(b: Boxes) -> None:
        plan = b.plan("/bin/sh", "-c", f"trap '' TERM; for i in 1 2 3; do setsid sleep {mark} & done; wait")
        await b.make(plan)
        await b.procd.start(plan)
        await asyncio.sleep(0.2)
        await b.procd.freeze(plan.box)
        await b.procd.kill(plan.box)
        ended = await asyncio.wait_for(b.procd.exit(plan.box), 20)
        assert ended.killed
        assert ended.status == signal.SIGKILL
        assert _sleepers(mark) == []
        await b.procd.destroy(plan.box)

    boxes(body)


@pytest.mark.req("N1", "D32")
def test_signal_reaches_the_main_process(boxes: Callable[[WithBoxes], None]) -> None:
    async def body(b: Boxes) -> None:
        plan = b.plan(
            "/bin/sh", "-c", "trap 'echo got; exit 9' TERM; echo ready; while :; do sleep 0.05; done"
        )
        await b.make(plan)
        await b.procd.start(plan)
        await asyncio.sleep(0.3)
        await b.procd.signal(plan.box, signal.SIGTERM)
        ended = await asyncio.wait_for(b.procd.exit(plan.box), 20)
        assert os.waitstatus_to_exitcode(ended.status) == 9
        assert "got" in await b.read(plan, "out")
        await b.procd.destroy(plan.box)

    boxes(body)


@pytest.mark.req("G7")
def test_frozen_job_does_nothing_until_thawed(boxes: Callable[[WithBoxes], None]) -> None:
    async def body(b: Boxes) -> None:
        plan = b.plan("/bin/sh", "-c", "while :; do echo x; sleep 0.02; done")
        await b.make(plan)
        await b.procd.start(plan)
        await asyncio.sleep(0.2)
        await b.procd.freeze(plan.box)
        await asyncio.sleep(0.1)
        first = await b.read(plan, "out")
        await asyncio.sleep(0.3)
        assert await b.read(plan, "out") == first
        await b.procd.thaw(plan.box)
        await asyncio.sleep(0.3)
        assert len(await b.read(plan, "out")) > len(first)
        await b.procd.kill(plan.box)
        await b.procd.exit(plan.box)
        await b.procd.destroy(plan.box)

    boxes(body)


@needs_root
@pytest.mark.req("G3", "G4")
def test_memory_limit_kills_and_is_told(boxes: Callable[[WithBoxes], None]) -> None:
    async def body(b: Boxes) -> None:
        hog = "x = bytearray(); \nwhile True: x += b'x' * 1000000"
        plan = b.plan(
            "/usr/bin/python3", "-c", hog, limits=Limits(memory=40 << 20, swap=0, cpu_shares=100, pids=50)
        )
        ended, _ = await b.run_to_end(plan)
        assert ended.oom
        assert ended.usage.oom_kills >= 1
        assert ended.usage.memory_peak_bytes is not None
        assert 30 << 20 < ended.usage.memory_peak_bytes <= 41 << 20

    boxes(body)


@pytest.mark.req("X9")
@pytest.mark.parametrize(
    ("fields", "step", "number"),
    [
        ({"argv": ("/no/such/program",)}, "exec", 2),
        ({"stdin": Stdio("/no/such/input")}, "stdin", 2),
        ({"stdout": Stdio("/proc/nope")}, "stdout", 2),
        ({"cwd": "/no/such/dir"}, "cwd", 2),
    ],
)
def test_failed_start_names_its_step_and_leaves_nothing(
    boxes: Callable[[WithBoxes], None], fields: dict[str, object], step: str, number: int
) -> None:
    async def body(b: Boxes) -> None:
        plan = b.plan("/bin/true", **fields)
        await b.make(plan)
        with pytest.raises(ProcdError) as caught:
            await b.procd.start(plan)
        assert (caught.value.step, caught.value.errno, caught.value.blame) == (step, number, "user")
        await asyncio.wait_for(b.procd.exit(plan.box), 20)
        await b.procd.destroy(plan.box)
        assert b.leftovers() == []

    boxes(body)


@needs_root
@pytest.mark.req("P6", "X2")
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"identity": Identity(0, 0)}, "never run as root"),
        ({"identity": Identity(65534, 0)}, "never run as root"),
        ({"identity": Identity(2, 2)}, "below min_uid"),
        ({"identity": Identity(65534, 65534, (4,))}, "no member of group"),
        ({"execute": "/etc"}, "execute directories"),
        ({"scratch": "../etc"}, "not a usable name"),
        ({"chroot": "nowhere"}, "no named chroot"),
        ({"no_new_privs": False}, "no_new_privs"),
        ({"private_dirs": ("/tmp/../etc",)}, "absolute path"),
        ({"cgroup": "../../x"}, "not a usable name"),
        ({"stdin": Stdio(fd=3)}, "did not come"),
        ({"nice": -5}, "nice"),
        ({"argv": ("relative",)}, "absolute path"),
    ],
)
def test_plan_beyond_the_admins_settings_is_refused(
    boxes: Callable[[WithBoxes], None], fields: dict[str, object], words: str
) -> None:
    async def body(b: Boxes) -> None:
        plan = b.plan("/bin/true", **fields)
        good = b.plan("/bin/true")._replace(box=plan.box)
        await b.make(good)
        with pytest.raises(ProcdError, match=words):
            await b.procd.start(plan)
        await b.procd.destroy(plan.box)

    boxes(body)


@pytest.mark.req("P6", "X7")
def test_job_holds_no_privilege_and_no_descriptor(boxes: Callable[[WithBoxes], None]) -> None:
    async def body(b: Boxes) -> None:
        _, out = await b.run_to_end(
            b.plan("/bin/sh", "-c", "cat /proc/self/status; echo fds: $(ls /proc/self/fd)")
        )
        facts = dict(line.split(":", 1) for line in out.splitlines() if ":" in line)
        assert facts["NoNewPrivs"].strip() == "1"
        assert int(facts["CapEff"], 16) == 0
        if ROOT:
            assert int(facts["CapBnd"], 16) == 0
        glibc_own = 3 << 31  # signals 32 and 33: posix_spawn(3) leaves them ignored
        assert int(facts["SigIgn"], 16) & ~glibc_own == 0
        assert int(facts["SigBlk"], 16) == 0
        assert facts["fds"].split() == ["0", "1", "2", "3"]  # the last is ls's own

    boxes(body)


@pytest.mark.req("R2")
def test_rlimits_are_set_and_clamped(boxes: Callable[[WithBoxes], None]) -> None:
    async def body(b: Boxes) -> None:
        limits = (Rlimit("CORE", 0, 0), Rlimit("NOFILE", 100, 200), Rlimit("AS", 1 << 40, -1))
        _, out = await b.run_to_end(
            b.plan("/bin/sh", "-c", "ulimit -n; ulimit -Hn; ulimit -c", rlimits=limits)
        )
        assert out.split() == ["100", "200", "0"]

    boxes(body)


@pytest.mark.req("S1", "P6")
def test_scratch_with_hostile_contents_is_removed_and_nothing_else(
    boxes: Callable[[WithBoxes], None], tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    canary.mkdir(mode=0o777)
    (canary / "file").write_text("keep")
    os.chmod(canary, 0o777)

    async def body(b: Boxes) -> None:
        script = (
            f"ln -s {canary} link; mkdir -p a/b/c; mkfifo fifo; printf x > 'new\nline';"
            "d=.; for i in $(seq 150); do d=$d/deep; done; mkdir -p $d; chmod 000 a;"
            "touch \"$(printf 'bad\\377')\""
        )
        ended, _ = await b.run_to_end(b.plan("/bin/sh", "-c", script))
        assert ended.status == 0
        assert b.leftovers() == []

    boxes(body)
    assert (canary / "file").read_text() == "keep"


@pytest.mark.req("P6")
def test_worker_never_leaves_the_scratch_directory(boxes: Callable[[WithBoxes], None]) -> None:
    async def body(b: Boxes) -> None:
        plan = b.plan("/bin/sh", "-c", "ln -s /etc/passwd out-link; ln -s out in-link; mkfifo pipe; echo hi")
        await b.make(plan)
        await b.procd.start(plan)
        await b.procd.exit(plan.box)
        worker = await b.procd.worker(plan.box)
        for name in ("out-link", "../../etc/passwd", "/etc/passwd", "pipe", "."):
            with pytest.raises(OSError):
                os.close(await worker.open(name))
        os.close(await worker.open("in-link"))
        names = {e.name: e.kind for e in await worker.listdir()}
        assert names["out-link"] == "link"
        assert names["pipe"] == "other"
        worker.close()
        await b.procd.destroy(plan.box)

    boxes(body)


@needs_root
@pytest.mark.req("G8")
def test_usage_counts_all_descendants(boxes: Callable[[WithBoxes], None]) -> None:
    async def body(b: Boxes) -> None:
        burn = "import time\nt=time.process_time()\nwhile time.process_time()-t < 0.5: pass"
        plan = b.plan("/bin/sh", "-c", f"/usr/bin/python3 -c '{burn}' & /usr/bin/python3 -c '{burn}' & wait")
        ended, _ = await b.run_to_end(plan)
        assert 0.9e6 < ended.usage.user_usec + ended.usage.system_usec < 2.5e6

    boxes(body)


@pytest.mark.req("P9")
def test_many_boxes_leave_nothing(boxes: Callable[[WithBoxes], None]) -> None:
    async def body(b: Boxes) -> None:
        started = time.monotonic()
        for _ in range(5):
            plans = [b.plan("/bin/true") for _ in range(10)]
            done = await asyncio.gather(*(b.run_to_end(p) for p in plans))
            assert [e.status for e, _ in done] == [0] * 10
        print(f"50 boxes: {(time.monotonic() - started) * 20:.1f} ms each")
        assert b.leftovers() == []

    boxes(body)


@pytest.mark.req("G2", "R6")
def test_job_that_kills_its_init_gains_nothing(boxes: Callable[[WithBoxes], None]) -> None:
    """Without a pid namespace the job can signal its init (same user): everything of it dies all the same."""
    mark = f"33{os.getpid()}"

    async def body(b: Boxes) -> None:
        script = (
            f"setsid env -i sleep {mark} & setsid env -i sleep {mark} & sleep 0.2; kill -9 $PPID; sleep 60"
        )
        fields = {} if not ROOT else {"namespaces": ("mnt",), "hostname": ""}
        plan = b.plan("/bin/sh", "-c", script, **fields)
        await b.make(plan)
        await b.procd.start(plan)
        ended = await asyncio.wait_for(b.procd.exit(plan.box), 30)
        assert "init was killed" in ended.error
        assert _sleepers(mark) == []
        await b.procd.destroy(plan.box)

    boxes(body)


@pytest.mark.req("G2")
def test_kill_right_after_the_start_request_is_not_lost(boxes: Callable[[WithBoxes], None]) -> None:
    async def body(b: Boxes) -> None:
        for _ in range(10):
            plan = b.plan("/bin/sleep", "100")
            await b.make(plan)
            starting = asyncio.create_task(b.procd.start(plan))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            await b.procd.kill(plan.box)
            await asyncio.gather(starting, return_exceptions=True)
            ended = await asyncio.wait_for(b.procd.exit(plan.box), 20)
            assert ended.killed
            await b.procd.destroy(plan.box)

    boxes(body)


@pytest.mark.req("P6", "X2")
def test_scratch_that_exists_already_is_refused_and_kept(boxes: Callable[[WithBoxes], None]) -> None:
    async def body(b: Boxes) -> None:
        plan = b.plan("/bin/true")
        there = b.execute / plan.scratch
        there.mkdir()
        (there / "keep").touch()
        with pytest.raises(ProcdError, match="exists already"):
            await b.make(plan)
        assert (there / "keep").exists()
        (there / "keep").unlink()
        there.rmdir()
        good = b.plan("/bin/true")
        await b.make(good)
        with pytest.raises(ProcdError, match="not what the box was made with"):
            await b.procd.start(good._replace(cgroup="other"))
        await b.procd.destroy(good.box)

    boxes(body)


@needs_root
@pytest.mark.req("P3")
def test_jobs_of_one_account_do_not_see_each_others_scratch(boxes: Callable[[WithBoxes], None]) -> None:
    async def body(b: Boxes) -> None:
        first = b.plan("/bin/sh", "-c", "echo secret >mine; sleep 30")
        await b.make(first)
        await b.procd.start(first)
        ended, out = await b.run_to_end(b.plan("/bin/sh", "-c", f"ls {b.execute}; cat {b.execute}/*/mine"))
        assert "secret" not in out
        assert first.scratch not in out
        assert len(out.split()) == 1
        assert ended.status != 0
        await b.procd.kill(first.box)
        await b.procd.exit(first.box)
        await b.procd.destroy(first.box)

    boxes(body)


@needs_root
@pytest.mark.req("G1", "N2")
def test_a_cgroup_that_cannot_be_made_ends_the_init_that_waits_for_it(
    boxes: Callable[[WithBoxes], None],
) -> None:
    """Another box lives in the cgroup of that name: it is left alone, and the job never ran."""

    async def run(b: Boxes) -> None:
        first = b.plan("/bin/sleep", "60")
        await b.make(first)
        await b.procd.start(first)
        second = b.plan("/bin/echo", "ran", cgroup=first.cgroup)
        await b.make(second)
        with pytest.raises(ProcdError) as refused:
            await b.procd.start(second)
        assert (refused.value.step, refused.value.blame) == ("cgroup", "system")
        ended = await asyncio.wait_for(b.procd.exit(second.box), 30)
        assert (ended.begun, ended.step) == (False, "cgroup")
        with pytest.raises(FileNotFoundError):
            await b.read(second, "out")
        await b.procd.destroy(second.box)
        assert (await b.procd.usage(first.box)).processes == 2  # its init and its job
        await b.procd.kill(first.box)
        await asyncio.wait_for(b.procd.exit(first.box), 30)
        await b.procd.destroy(first.box)

    boxes(run)


@needs_root
@pytest.mark.req("G2", "P9")
def test_destroy_leaves_nothing_however_soon_it_comes_after_the_end(
    boxes: Callable[[WithBoxes], None],
) -> None:
    """The end is told when nothing runs any more; the init may still be giving back its mounts."""

    async def run(b: Boxes) -> None:
        for _ in range(50):
            plan = b.plan("/bin/true")
            await b.make(plan)
            started = await b.procd.start(plan)
            ended = await asyncio.wait_for(b.procd.exit(plan.box), 30)
            assert (ended.status, ended.leftovers) == (0, 0)
            await b.procd.destroy(plan.box)
            assert not Path(f"/proc/{started.pid}").exists()
            assert not list(Path("/sys/fs/cgroup").glob(f"*/{BASE}/{plan.cgroup}"))

    boxes(run)
