"""Docker jobs from the ad to the exit status, as an operator runs them: ``starterctl run``, unprivileged."""

from __future__ import annotations

import grp
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import classad2
import pytest

from env.docker_house import IMAGE, Engine

BIN = Path(sys.executable).parent
HELD, SYSTEM_FAILURE = 230, 231


class Site:
    """A machine's configuration of its own: places, cgroup, account; and an engine."""

    def __init__(self, base: Path, engine: Engine) -> None:
        self.base = base
        self.engine = engine
        self.cgroup = f"dockerrun{os.getpid()}"
        self.env = {
            "PATH": os.environ["PATH"],
            "DOCKER_HOST": engine.host,
            "_CONDOR_EXECUTE": f"{base}/execute",
            "_CONDOR_LOG": f"{base}/log",
            "_CONDOR_STARTER_RUN_DIR": f"{base}/run",
            "_CONDOR_BASE_CGROUP": self.cgroup,
            # an id without an account, but with the group of the engine's socket: all that is needed
            "CONDOR_IDS": f"64321.{grp.getgrnam('daemon').gr_gid}",
        }
        (base / "job").mkdir()
        (base / "job").chmod(0o777)

    def write(self, *lines: str, image: str = IMAGE) -> str:
        """An ad file; returns its path."""
        ad = [
            "WantDocker = true",
            f"DockerImage = {classad2.quote(image)}",
            'OsUser = "nobody"',
            'Owner = "alice"',
        ]
        ad += [f'Iwd = "{self.base}/job"', 'Out = "out"', 'Err = "err"', "RequestMemory = 100", *lines]
        path = self.base / "job.ad"
        path.write_text("\n".join(ad) + "\n")
        return str(path)

    def start(self, *words: str, **options: object) -> subprocess.Popen[str]:
        argv = [str(BIN / words[0]), *words[1:]]
        pipe = subprocess.PIPE
        return subprocess.Popen(argv, env=self.env, text=True, stdout=pipe, stderr=pipe, **options)  # type: ignore[call-overload, no-any-return]

    def shell(self, script: str, *lines: str) -> Result:
        """The same for a job that is a shell script (without single quotes)."""
        return self.run('Cmd = "/bin/sh"', "Arguments = " + classad2.quote(f"-c '{script}'"), *lines)

    def run(self, *lines: str, image: str = IMAGE) -> Result:
        """``starterctl run`` of one ad, to its end."""
        process = self.start("starterctl", "run", "--output-ad", "-", self.write(*lines, image=image))
        out, err = process.communicate(timeout=120)
        return Result(process.returncode, out, err, self)

    def log(self) -> str:
        return "".join(p.read_text() for p in (self.base / "log").glob("StarterLog*"))

    def file(self, name: str) -> str:
        return (self.base / "job" / name).read_text()

    def left(self) -> list[str]:
        """Whatever a job left on the machine."""
        found = [str(p) for p in (self.base / "execute").glob("*")]
        found += [str(p) for p in Path("/sys/fs/cgroup").glob(f"*/{self.cgroup}/*") if p.is_dir()]
        return found + self.engine.containers()


class Result:
    """How ``starterctl run`` ended."""

    def __init__(self, code: int, out: str, err: str, site: Site) -> None:
        self.code = code
        self.out = out
        self.err = err
        start = out.find("[") if out.lstrip().startswith("[") else 0
        self.ad = next(iter(classad2.parseAds(out[start:])), classad2.ClassAd())
        self.site = site


def marked(marker: str) -> list[int]:
    """Processes of the whole machine with ``marker`` among their arguments, the tests' own tools left out."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().split(b"\0")[:2] in (
                [b"/bin/sleep", marker.encode()],
                [b"sleep", marker.encode()],
            ):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def wait_until(condition: Callable[[], object], seconds: float = 30) -> None:
    """Wait until ``condition`` holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.05)


@pytest.fixture
def site(engine: Engine) -> Iterator[Site]:
    base = Path(tempfile.mkdtemp(prefix="docker-run.", dir="/var/tmp"))
    base.chmod(0o755)
    made = Site(base, engine)
    yield made
    left = made.left()
    shutil.rmtree(base)
    for path in Path("/sys/fs/cgroup").glob(f"*/{made.cgroup}"):
        path.rmdir()
    assert not left


@pytest.mark.req("D3", "D4", "D24")
def test_a_docker_job_by_hand(site: Site) -> None:
    busy = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done"
    done = site.shell(f"id -u; pwd; echo to-err >&2; {busy}; exit 7")
    assert done.code == 7, done.err
    uid, cwd = site.file("out").split()
    assert uid == "65534"
    assert cwd.startswith(f"{site.base}/execute/dir_")
    assert site.file("err") == "to-err\n"
    assert done.ad["ExitCode"] == 7
    assert done.ad["ExitBySignal"] is False
    assert done.ad["RemoteUserCpu"] + done.ad["RemoteSysCpu"] > 0.01
    log = site.log()
    assert "Backend docker: the job names the image condor-starter-test/busybox:1" in log
    assert "Process exited, pid=0, status=7" in log


@pytest.mark.req("D4")
def test_a_signal_is_the_jobs_own_end(site: Site) -> None:
    done = site.shell("kill -6 $$")
    assert done.code == 128 + 6
    assert done.ad["ExitSignal"] == 6


@pytest.mark.req("D16", "G4")
def test_over_memory_is_held_with_34_102_and_the_docker_sentence(site: Site) -> None:
    done = site.shell("dd if=/dev/zero of=/dev/null bs=300M count=1; echo survived", "RequestMemory = 32")
    assert done.code == HELD
    assert (done.ad["HoldReasonCode"], done.ad["HoldReasonSubCode"]) == (34, 102)
    assert done.ad["HoldReason"] == "Docker job has gone over memory limit of 32 Mb"


@pytest.mark.req("D5", "D18")
def test_an_image_that_is_nowhere_is_held_with_35_at_once(site: Site) -> None:
    begun = time.monotonic()
    done = site.run('Cmd = "/bin/true"', image="127.0.0.1:9/no/such:1")
    assert done.code == HELD
    assert done.ad["HoldReasonCode"] == 35
    assert done.ad["HoldReason"].startswith("Cannot pull image 127.0.0.1:9/no/such:1: ")
    assert "connection refused" in done.ad["HoldReason"]
    assert time.monotonic() - begun < 10


@pytest.mark.req("D18", "P6")
@pytest.mark.parametrize(
    "image", ["--privileged", "a b", "busybox\n--privileged", "x" * 5000, "../../etc/passwd"]
)
def test_the_engine_never_sees_a_hostile_image_name(site: Site, image: str) -> None:
    with Recorder(site) as seen:
        assert site.run('Cmd = "/bin/true"').code == 0
        assert b"condor-starter-test/busybox" in seen.bytes()  # it does record
        before = len(seen.bytes())
        done = site.run('Cmd = "/bin/true"', image=image)
        assert done.code == HELD
        assert done.ad["HoldReasonCode"] == 35
        asked = seen.bytes()[before:]
        assert b"/images/" not in asked
        assert b"/containers/" not in asked


@pytest.mark.req("D2", "D36")
def test_without_an_engine_the_job_is_for_another_machine_and_the_log_says_why(site: Site) -> None:
    site.env["DOCKER_HOST"] = "unix:///nowhere/docker.sock"
    done = site.run('Cmd = "/bin/true"')
    assert done.code == SYSTEM_FAILURE
    assert "no docker engine at /nowhere/docker.sock: No such file or directory" in site.log()


@pytest.mark.req("D2", "H1")
def test_classad_tells_of_the_engine(site: Site) -> None:
    out, _ = site.start("condor_starter", "-classad").communicate(timeout=60)
    ad = next(classad2.parseAds(out))
    assert ad["HasDocker"] is True
    version = site.engine.client("version", "-f", "{{.Server.Version}}")
    assert ad["DockerVersion"].startswith(f"Docker version {version}, build ")


@pytest.mark.req("D2", "H1")
def test_classad_without_an_engine_says_nothing_of_docker_and_the_log_says_why(site: Site) -> None:
    site.env["DOCKER_HOST"] = "unix:///nowhere/docker.sock"
    (site.base / "log").mkdir()
    out, _ = site.start("condor_starter", "-classad").communicate(timeout=60)
    assert "Docker" not in out
    assert "HasFileTransfer = True" in out
    assert "no docker engine at /nowhere/docker.sock" in site.log()


@pytest.mark.req("X4")
def test_explain_shows_the_container(site: Site) -> None:
    out, err = site.start("starterctl", "explain", site.write('Cmd = "/bin/true"')).communicate(timeout=60)
    for word in ("Backend docker", IMAGE, "no-new-privileges", "HTCJob"):
        assert word in out, err


@pytest.mark.req("X3", "D14")
def test_a_starter_that_is_killed_leaves_no_process_and_the_next_one_removes_its_container(
    site: Site,
) -> None:
    ad = site.write('Cmd = "/bin/sleep"', 'Arguments = "98781"')
    process = site.start("starterctl", "run", ad)
    try:
        wait_until(lambda: marked("98781"))
    finally:
        process.kill()
        process.communicate(timeout=60)
    wait_until(lambda: not marked("98781"))
    assert len(site.engine.containers()) == 1
    assert site.run('Cmd = "/bin/true"').code == 0
    assert site.engine.containers() == []
    assert "which a dead starter left" in site.log()


@pytest.mark.req("D4", "D32")
def test_an_interrupted_run_ends_its_job(site: Site) -> None:
    script = 'trap "echo caught; exit 3" TERM; echo ready; while :; do usleep 10000; done'
    ad = site.write('Cmd = "/bin/sh"', "Arguments = " + classad2.quote(f"-c '{script}'"))
    process = site.start("starterctl", "run", ad)
    try:
        wait_until(lambda: (site.base / "job" / "out").exists() and site.file("out") == "ready\n")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert site.file("out") == "ready\ncaught\n"


class Recorder:
    """A socket in front of the engine that writes down what the engine is asked."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._file = site.base / "asked"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Recorder:
        path = self._site.base / "recorder.sock"
        real = self._site.engine.host.removeprefix("unix://")
        argv = [
            sys.executable,
            str(Path(__file__).with_name("recorder.py")),
            str(path),
            real,
            str(self._file),
        ]
        self._process = subprocess.Popen(argv)
        wait_until(path.exists)
        self._site.env["DOCKER_HOST"] = f"unix://{path}"
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)

    def bytes(self) -> bytes:
        return self._file.read_bytes()


@pytest.mark.req("D4", "D5")
def test_a_job_can_be_ended_while_its_image_is_fetched(site: Site) -> None:
    """The registry, on the engine's own loopback, takes the connection and never answers."""
    program = (
        "import socket, time; s = socket.socket(); s.bind(('127.0.0.1', 5999)); s.listen()\n"
        "print('up', flush=True); time.sleep(120)"
    )
    enter = ["nsenter", f"--net=/proc/{site.engine.pid()}/ns/net", sys.executable, "-c", program]
    registry = subprocess.Popen(enter, stdout=subprocess.PIPE, text=True)
    try:
        assert registry.stdout is not None
        assert registry.stdout.readline() == "up\n"
        process = site.start("starterctl", "run", site.write('Cmd = "/bin/true"', image="127.0.0.1:5999/x:1"))
        wait_until(lambda: "Looking for docker image 127.0.0.1:5999/x:1" in site.log())
        time.sleep(1)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=20)
        assert process.returncode == SYSTEM_FAILURE
        assert "the job did not run" in err
    finally:
        registry.kill()
        registry.communicate(timeout=20)
