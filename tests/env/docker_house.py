"""What the docker suite stands on: a real engine of its own, a private procd, and jobs in containers."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

from condor_starter.engines.docker import DockerEngine, DockerRunner
from condor_starter.isolation import docker
from condor_starter.isolation.boxplan import BoxExit, Identity, Limits, Stdio
from condor_starter.job import DockerSpec, JobSpec, Streams, Universe
from condor_starter.knobs import Knobs, load
from condor_starter.procd.client import Procd

SCRIPT = Path(__file__).with_name("docker-engine.sh")
IMAGE = "condor-starter-test/busybox:1"
ENTRYPOINT = "condor-starter-test/entrypoint:1"
NO_COMMAND = "condor-starter-test/nocommand:1"
CGROUP = f"dockertest{os.getpid()}"
NOBODY = pwd.getpwnam("nobody")
WHO = Identity(NOBODY.pw_uid, NOBODY.pw_gid, (), "nobody")
MiB = 1 << 20


class Engine:
    """The engine by its script: start, stop, and what an operator sees through docker's own client."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.host = f"unix://{directory}/docker.sock"

    def script(self, *words: str) -> None:
        env = {**os.environ, "DE_DIR": str(self.directory)}
        subprocess.run([str(SCRIPT), *words], env=env, check=True, timeout=300, stdout=subprocess.DEVNULL)

    def client(self, *words: str, check: bool = True) -> str:
        """Docker's own command line, as an operator's second opinion."""
        argv = ["/usr/bin/docker", "--host", self.host, *words]
        done = subprocess.run(argv, check=check, timeout=60, stdout=subprocess.PIPE, text=True)
        return done.stdout.strip()

    def pid(self) -> int:
        """dockerd's."""
        return int((self.directory / "dockerd.pid").read_text())

    def wait_gone(self) -> None:
        """Wait until dockerd, which was told to end, has ended."""
        for _ in range(300):
            try:
                pid = self.pid()
                if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                    return
            except OSError:
                return
            time.sleep(0.1)
        raise AssertionError("dockerd does not end")

    def containers(self) -> list[str]:
        """Names of all containers, stopped ones included."""
        return self.client("ps", "-a", "--format", "{{.Names}}").split()


def start_engine() -> Engine:
    """A fresh engine; its owner calls ``script("stop")``."""
    directory = Path(tempfile.mkdtemp(prefix="docker-engine.", dir="/tmp"))
    directory.chmod(0o755)
    engine = Engine(directory)
    engine.script("start")
    return engine


@dataclass(slots=True)
class House:
    """What a runner needs, and helpers to make jobs for it."""

    procd: Procd
    engine: DockerEngine
    knobs: Knobs
    execute: Path
    count: int = 0
    said: list[str] | None = None

    async def job(
        self,
        *command: str,
        image: str = IMAGE,
        limits: Limits = Limits(),  # noqa: B008  (immutable)
        stdin: str | None = None,
        environment: dict[str, str] | None = None,
        files: dict[str, bytes] | None = None,
        fds: tuple[int, ...] = (),
        streams: tuple[Stdio, Stdio, Stdio] | None = None,
        change: dict[str, object] | None = None,
        **spec: object,
    ) -> Job:
        """A job in a made box with its scratch filled; ``change`` alters the container's spec."""
        self.count += 1
        name = f"b{os.getpid()}_{self.count}"
        asked = job_spec(command, image, stdin=stdin, **spec)
        path = Path(await self.procd.make(name, "container", str(self.execute), f"dir_{name}", name))
        for file, data in (files or {}).items():
            (path / file).write_bytes(data)
            (path / file).chmod(0o755)
        container = docker.plan(
            asked,
            self.knobs,
            box=name,
            slot="slot1_1",
            machine="host.example.org",
            scratch=str(path),
            identity=WHO,
            limits=limits,
            environment=environment or {},
        )
        box = docker.box_plan(
            container,
            box=name,
            cgroup=name,
            execute=str(self.execute),
            scratch=f"dir_{name}",
            identity=WHO,
            limits=limits,
            streams=streams or (Stdio(stdin), Stdio("_condor_stdout"), Stdio("_condor_stderr")),
        )
        self.said = []
        container = replace(container, **(change or {}))  # type: ignore[arg-type]
        said = self.said.append

        def make() -> DockerRunner:
            return DockerRunner(self, self.engine, box, container, fds, said)

        return Job(self, make(), make, name, container.name, path)

    async def run(self, *command: str, **options: object) -> Result:
        """One job from start to removal; everything it left in scratch is read first."""
        job = await self.job(*command, **options)  # type: ignore[arg-type]
        try:
            await job.runner.start()
            ended = await asyncio.wait_for(job.runner.wait(), 60)
            return Result(ended, job.files(), job.owners(), job.scratch)
        finally:
            await job.close()


@dataclass(slots=True)
class Job:
    """A job under way."""

    house: House
    runner: DockerRunner
    successor: Callable[[], DockerRunner]  # the runner that a later process would make
    box: str
    container: str
    scratch: Path

    def files(self) -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in self.scratch.iterdir() if p.is_file()}

    def owners(self) -> set[int]:
        return {p.lstat().st_uid for p in self.scratch.rglob("*")}

    async def until(self, name: str, content: bytes) -> None:
        """Wait until file ``name`` in scratch holds ``content``."""
        for _ in range(600):
            path = self.scratch / name
            if path.exists() and content in path.read_bytes():
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"{name} never held {content!r}: {self.files()}")

    async def close(self) -> None:
        await self.runner.close()
        await self.house.procd.destroy(self.box)


@dataclass(frozen=True, slots=True)
class Result:
    """How a job ended and what it left."""

    exit: BoxExit
    files: dict[str, bytes]
    owners: set[int]
    scratch: Path

    @property
    def code(self) -> int:
        return os.waitstatus_to_exitcode(self.exit.status)

    @property
    def out(self) -> str:
        return self.files["_condor_stdout"].decode()

    @property
    def err(self) -> str:
        return self.files["_condor_stderr"].decode()


def job_spec(command: tuple[str, ...], image: str, **fields: object) -> JobSpec:
    """A docker job that runs ``command`` of the image."""
    defaults: dict[str, object] = {
        "cluster": 12,
        "proc": 0,
        "universe": Universe.VANILLA,
        "owner": "alice",
        "cmd": command[0] if command else "",
        "args": command[1:],
        "environment": {},
        "iwd": "",
        "streams": Streams(stdin=fields.pop("stdin", None)),  # type: ignore[arg-type]
        "transfer_files": True,
        "transfer_executable": False,
        "transfer_input": (),
        "transfer_output": None,
        "kill_sig": 15,
        "remove_kill_sig": 15,
        "hold_kill_sig": 15,
        "request_cpus": 1.0,
        "request_memory_mb": None,
        "core_size": 0,
        "nice": 0,
        "requested_chroot": "",
        "want_network": None,
        "docker": DockerSpec(image),
    }
    return JobSpec(**(defaults | fields))  # type: ignore[arg-type]


Body = Callable[[House], Awaitable[None]]


def run_in_house(engine: Engine, body: Body) -> None:
    """Run ``body`` with a private procd and ``engine``; afterwards nothing of it may be left."""
    base = Path("/var/tmp") / f"dockertest-{os.getpid()}"
    (base / "execute").mkdir(parents=True)

    async def main() -> None:
        settings = {"execute": f"{base}/execute", "run": f"{base}/run", "client": "0", "base_cgroup": CGROUP}
        procd = await Procd.spawn(settings)
        connection = DockerEngine(engine.host)
        try:
            assert (await connection.probe()).usable
            await body(House(procd, connection, load(environ={}), base / "execute"))
        finally:
            await connection.close()
            await procd.close()

    try:
        asyncio.run(main())
        left = [str(p) for p in (base / "execute").iterdir()]
        left += [str(p) for p in Path("/sys/fs/cgroup").glob(f"*/{CGROUP}/*") if p.is_dir()]
        assert not left, f"left behind: {left}"
    finally:
        shutil.rmtree(base)
        for path in Path("/sys/fs/cgroup").glob(f"*/{CGROUP}"):
            path.rmdir()
