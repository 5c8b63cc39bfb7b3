"""Run test suites one after the other, go on when one fails, and say at the end what came out of all of them.

    suites.py all            every suite, as far as this account can run it
    suites.py unit docker    these

Runs under a plain Python (nothing but the standard library); setup.sh has made the Python that the tests run
under. The last lines are in the form of pytest's own, over all suites; the exit status is 0 when nothing
failed. As root nothing may be skipped: a skipped test is a failed one. As an ordinary user the suites that
need root are left out, and the table says so.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
SETUP = str(TOP / "tests" / "env" / "setup.sh")
VM = str(TOP / "tests" / "env" / "vm.sh")
ROOT = os.geteuid() == 0
SETUP_LIMIT = 900.0  # seconds: a first set-up makes images and trees from Debian's mirror
ENDINGS = ((signal.SIGINT, 120.0), (signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0))
"""How a suite that ran into its limit is ended: as Ctrl-C would, with seconds to take its fixtures down."""
NOBODY = (
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "--inh-caps=-all",
    "--bounding-set=-all",
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where things are: what setup.sh made, and a directory for this run."""

    python: str  # with our package and pytest
    tools: str  # directory of ruff and mypy
    work: Path


Commands = Callable[
    [Place, Path], list[tuple[str, list[str]]]
]  # (place, report) -> (name, argv) to run in turn


@dataclass(frozen=True, slots=True)
class Suite:
    """One suite: its commands write one JUnit report, or are checks that count by their exit status."""

    name: str
    commands: Commands
    minutes: float  # limit for all its commands together
    environment: str = "venv"  # for setup.sh
    root: bool = False  # whether it needs root
    may_skip: bool = False  # whether skipped tests are all right even for root
    lacks: Callable[[], str] = str  # what this machine lacks for it, in words; "": nothing


@dataclass(slots=True)
class Result:
    """What came out of a suite."""

    suite: Suite
    setup_seconds: float = 0.0
    seconds: float = 0.0
    left_out: str = ""
    passed: int = 0
    skipped: int = 0
    failures: list[str] = field(default_factory=list)  # as in pytest's short summary


def pytest(place: Place, report: Path, *what: str) -> list[str]:
    """The command line for pytest over ``what``."""
    options = ["-q", f"--junitxml={report}", "-o", "junit_family=xunit1"]
    return [place.python, "-m", "pytest", *options, *what]


def of_directories(*names: str) -> Commands:
    """pytest over the test directories ``names`` that are there."""

    def commands(place: Place, report: Path) -> list[tuple[str, list[str]]]:
        found = [f"tests/{name}" for name in names if any((TOP / "tests" / name).glob("test_*.py"))]
        return [("pytest", pytest(place, report, *found))]

    return commands


def lint(place: Place, report: Path) -> list[tuple[str, list[str]]]:
    """ruff's rules and form, and mypy over the sources."""
    return [
        ("ruff check", [f"{place.tools}/bin/ruff", "check", "."]),
        ("ruff format", [f"{place.tools}/bin/ruff", "format", "--check", "."]),
        ("mypy", [f"{place.tools}/bin/mypy"]),
    ]


def as_nobody(place: Place, report: Path) -> list[tuple[str, list[str]]]:
    """The system tests once more as an ordinary user, on a copy that such a user can read and write."""
    copy = place.work / "nobody"
    for name in ("tests", "etc"):
        shutil.copytree(TOP / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "docs/promises.md"):
        (copy / name).parent.mkdir(exist_ok=True)
        shutil.copy(TOP / name, copy / name)
    for path in (copy, *copy.rglob("*")):
        os.chown(path, 65534, 65534)
    inside = copy / report.name
    run = [
        *pytest(
            place,
            inside,
            "--rootdir",
            str(copy),
            "-c",
            str(copy / "pyproject.toml"),
            str(copy / "tests/system"),
        )
    ]
    home = ["env", f"HOME={copy}", f"TMPDIR={copy}", f"PWD={copy}", "PYTHONDONTWRITEBYTECODE=1"]
    script = 'cd "$1" && shift && "$@"; status=$?; [ ! -e "$0" ] || cp "$0" "$REPORT"; exit $status'
    return [
        (
            "pytest",
            ["env", f"REPORT={report}", "sh", "-c", script, str(inside), str(copy), *NOBODY, *home, *run],
        )
    ]


WITHOUT_V2 = """
while read -r _ mount type _; do [ "$type" != cgroup2 ] || umount "$mount" || exit; done </proc/mounts
exec "$@"
"""


def without_v2(place: Place, report: Path) -> list[tuple[str, list[str]]]:
    """Boxes once more where cgroup v1 is all there is: the v2 tree of a hybrid machine is hidden from us."""
    hidden = ["unshare", "--mount", "--propagation", "private", "sh", "-c", WITHOUT_V2, "sh"]
    kind = "from condor_starter.procd.cgroups.detect import read_layout as r; assert r().kind == 'v1', r()"
    names = ("test_procd", "test_cgroup_life", "test_cgroup_limits", "test_run")
    what = [*(f"tests/system/{name}.py" for name in names), "tests/faults/test_barrier.py"]
    return [
        ("v1 alone", [*hidden, place.python, "-c", kind]),
        ("pytest", [*hidden, *pytest(place, report, *what)]),
    ]


def lacks_v1() -> str:
    """Why there is no cgroup v1 to test here, or nothing."""
    types = [line.split()[2] for line in Path("/proc/mounts").read_text().splitlines()]
    return "" if "cgroup" in types else "this machine has no cgroup v1 controllers"


def in_the_guest(place: Place, report: Path) -> list[tuple[str, list[str]]]:
    """One boot for all of tests/vm; our wheel is on a shared directory, as is the report."""
    share = place.work / "vm"
    share.mkdir()
    wheel = [
        f"{place.tools}/bin/python",
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
    ]
    guest = Place("/opt/condor_starter/bin/python", "", share)
    run = pytest(guest, share / "vm.xml", "-p", "no:cacheprovider", "tests/vm")
    environment = ["-e", "PYTHONDONTWRITEBYTECODE=1", "-e", f"CONDOR_STARTER_WHEELS={share}"]
    boot = [VM, "run", "-s", f"{TOP}:ro", "-s", str(share), "-C", str(TOP), *environment, "--", *run]
    script = '"$@"; status=$?; [ ! -e "$0" ] || cp "$0" "$REPORT"; exit $status'
    return [
        ("wheel", [*wheel, "--wheel-dir", str(share), str(TOP)]),
        ("pytest", ["env", f"REPORT={report}", "sh", "-c", script, str(share / "vm.xml"), *boot]),
    ]


SUITES = (
    Suite("lint", lint, 5),
    Suite("unit", of_directories("unit"), 10),
    Suite("system", of_directories("system", "faults", "attacks"), 15, "system"),
    Suite("v1", without_v2, 10, "system", root=True, lacks=lacks_v1),
    Suite("user", as_nobody, 10, "system", root=True, may_skip=True),
    Suite("docker", of_directories("docker"), 12, "docker", root=True),
    Suite("vm", in_the_guest, 12, "vm", root=True),
    Suite("pool", of_directories("pool"), 15, "pool", root=True),
)


def main(names: Sequence[str]) -> int:
    """Run the named suites; 0 when all that could be run passed."""
    by_name = {s.name: s for s in SUITES}
    wanted = list(SUITES) if list(names) == ["all"] else [by_name[n] for n in names if n in by_name]
    if not wanted or (list(names) != ["all"] and len(wanted) != len(names)):
        print(f"usage: suites.py all | {' '.join(by_name)}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="suites.", dir="/var/tmp") as work:
        os.chmod(work, 0o755)
        place = find_place(Path(work))
        results = [run_suite(suite, place) for suite in wanted]
    return report(results, time.monotonic() - begun)


def find_place(work: Path) -> Place:
    """What setup.sh made, making it first."""
    subprocess.run([SETUP, "venv"], check=True)
    where = subprocess.run([SETUP, "where"], check=True, capture_output=True, text=True).stdout.strip()
    tools = subprocess.run([SETUP, "tools"], check=True, capture_output=True, text=True).stdout.strip()
    return Place(f"{where}/bin/python", tools, work)


def run_suite(suite: Suite, place: Place) -> Result:
    """Set up and run one suite. Never raises for what goes wrong in it."""
    print(f"\n######## {suite.name}", flush=True)
    result = Result(suite)
    result.left_out = "needs root" if suite.root and not ROOT else suite.lacks()
    if result.left_out:
        print("left out:", result.left_out, flush=True)
        return result
    begun = time.monotonic()
    ready = run_command([SETUP, suite.environment], SETUP_LIMIT) == 0
    result.setup_seconds = time.monotonic() - begun
    if not ready:
        result.failures.append(f"ERROR {suite.name}::set-up")
        return result
    begun = time.monotonic()
    report = place.work / f"{suite.name}.xml"
    for name, command in suite.commands(place, report):
        left = suite.minutes * 60 - (time.monotonic() - begun)
        print("+", name, flush=True)
        status = run_command(command, left)
        if name != "pytest":
            count_check(result, name, status)
        else:
            count_report(result, report, status)
        if status and name == "wheel":
            break
    result.seconds = time.monotonic() - begun
    return result


def run_command(command: list[str], limit: float) -> int | None:
    """Exit status; None when ``limit`` seconds were not enough. Nothing of its session goes on."""
    child = subprocess.Popen(command, cwd=TOP, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        return child.wait(limit)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if child.returncode is None:
            end(child)


def end(child: subprocess.Popen[bytes]) -> None:
    """All of its session, and wait for it."""
    for number, seconds in ENDINGS:
        os.killpg(child.pid, number)
        try:
            child.wait(seconds)
            return
        except subprocess.TimeoutExpired:
            continue


def count_check(result: Result, name: str, status: int | None) -> None:
    if status == 0:
        result.passed += 1
    else:
        result.failures.append(f"FAILED {result.suite.name}::{name} - {said(status)}")


def said(status: int | None) -> str:
    return "took too long and was ended" if status is None else f"exit status {status}"


def count_report(result: Result, report: Path, status: int | None) -> None:
    """Add up a JUnit report; a run that failed without a failed test counts as an error."""
    cases = list(ET.parse(report).getroot().iter("testcase")) if report.exists() else []
    for case in cases:
        count_case(result, case)
    if status != 0 and (status != 1 or not result.failures):
        result.failures.append(f"ERROR {result.suite.name}::pytest - {said(status)}")


def count_case(result: Result, case: ET.Element) -> None:
    name = f"{case.get('file')}::{(case.get('classname') or '').rpartition('.')[2]}::{case.get('name')}"
    name = re.sub(
        r"::test_\w+::", "::", name
    )  # the last part of classname is the module, when there is no class
    bad = case.find("failure"), case.find("error")
    skipped = case.find("skipped")
    if bad != (None, None):
        kind = "FAILED" if bad[0] is not None else "ERROR"
        found = bad[0] if bad[0] is not None else bad[1]
        assert found is not None
        first, *_ = (found.get("message") or "no message").splitlines()
        result.failures.append(f"{kind} {name} - {first[:200]}")
    elif skipped is None:
        result.passed += 1
    elif ROOT and not result.suite.may_skip:
        result.failures.append(f"FAILED {name} - skipped, which root may not: {skipped.get('message')}")
    else:
        result.skipped += 1


def report(results: list[Result], seconds: float) -> int:
    """The table of suites, then closing lines in pytest's form."""
    print(f"\n{'suite':8} {'result':10} {'passed':>7} {'failed':>7} {'skipped':>8} {'set-up':>9} {'run':>9}")
    for r in results:
        word = f"left out: {r.left_out}" if r.left_out else "failed" if r.failures else "passed"
        counts = (
            ""
            if r.left_out
            else f"{r.passed:7} {len(r.failures):7} {r.skipped:8} {r.setup_seconds:7.1f} s {r.seconds:7.1f} s"
        )
        print(f"{r.suite.name:8} {word:10} {counts}")
    failures = [f for r in results for f in r.failures]
    if failures:
        print(" short test summary info ".center(80, "="), *failures, sep="\n")
    return closing(results, failures, seconds)


def closing(results: list[Result], failures: list[str], seconds: float) -> int:
    errors = sum(f.startswith("ERROR") for f in failures)
    counts = {
        "failed": len(failures) - errors,
        "passed": sum(r.passed for r in results),
        "skipped": sum(r.skipped for r in results),
        "errors": errors,
    }
    text = ", ".join(f"{n} {word}" for word, n in counts.items() if n) or "no tests ran"
    clock = (
        f" ({int(seconds) // 3600}:{int(seconds) // 60 % 60:02}:{int(seconds) % 60:02})"
        if seconds >= 60
        else ""
    )
    print(f" {text} in {seconds:.2f}s{clock} ".center(80, "="), flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
