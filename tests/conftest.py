"""What all suites share: unique names for what a test makes, a look at what it left, requirement marks.

A suite is a directory. Its tests carry the directory's name as a mark, so that ``-m system`` selects them.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

import leaks
import promises

HERE = Path(__file__).parent
SUITES = ("unit", "system", "faults", "attacks", "docker", "vm", "pool")
BOXES = ("system", "faults", "attacks", "docker")  # suites whose tests make boxes on this machine
IN_GUEST = "CONDOR_STARTER_VM" in os.environ
_number = itertools.count(1)


def pytest_configure(config: pytest.Config) -> None:
    try:
        import hypothesis
    except ModuleNotFoundError:  # the guest of tests/vm has none, and no test that wants it
        pass
    else:
        # how long one example takes says how busy the machine is, and nothing about our code
        hypothesis.settings.register_profile("busy", deadline=None)
        hypothesis.settings.load_profile("busy")
    for suite in SUITES:
        config.addinivalue_line("markers", f"{suite}: a test of tests/{suite}")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """tests/vm is about a machine with systemd and pure cgroup v2: `make test-vm` runs it in its guest."""
    if collection_path == HERE / "vm" and not IN_GUEST:
        return True
    return None


def pytest_report_header(config: pytest.Config) -> list[str]:
    who = "root" if os.geteuid() == 0 else f"uid {os.geteuid()}"
    return [f"as {who} on {os.uname().release}", *([] if IN_GUEST else ["tests/vm: by `make test-vm` only"])]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its suite; refuse marks with a requirement that does not exist."""
    known = promises.read(promises.PAGE)
    for item in items:
        inside = item.path.relative_to(HERE).parts[0] if item.path.is_relative_to(HERE) else ""
        if inside in SUITES:
            item.add_marker(inside)
        for mark in item.iter_markers("req"):
            if unknown := [i for i in mark.args if i not in known]:
                raise pytest.UsageError(f"{item.nodeid}: no requirement {', '.join(map(str, unknown))}")


@pytest.fixture
def unique() -> str:
    """A name that nobody else has, with our pid in it: for cgroups, boxes, directories."""
    return f"test-{os.getpid()}-{next(_number)}"


@pytest.fixture
def open_dir(unique: str) -> Iterator[Path]:
    """A fresh directory that job users can enter (tmp_path is its owner's alone), removed at the end."""
    path = Path("/var/tmp") / unique
    path.mkdir(mode=0o755)
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(autouse=True)
def no_socket_is_closed_while_it_is_watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An event loop goes on watching the number of a descriptor that was closed under it: whoever gets that
    number next is refused (ENOENT of epoll_ctl), or never hears of its own data again.
    """
    wrong: list[str] = []
    real = socket.socket.close

    def close(sock: socket.socket) -> None:
        if sock.fileno() in _watched():
            wrong.append(f"{sock} is closed while its loop watches it")
        real(sock)

    monkeypatch.setattr(socket.socket, "close", close)
    yield
    assert not wrong, wrong


def _watched() -> set[int]:
    """The descriptors that the running loop of this thread watches."""
    try:
        selector = getattr(asyncio.get_running_loop(), "_selector", None)
    except RuntimeError:
        return set()
    return {key.fd for key in (selector.get_map() or {}).values()} if selector else set()


@pytest.fixture(autouse=True)
def nothing_runs_on(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test that makes boxes, no process and no mount of it is left."""
    if request.path.relative_to(HERE).parts[0] not in BOXES:
        yield
        return
    before = leaks.traces()
    yield
    left = leaks.left_since(before, "processes", "mounts")
    assert not left, f"the test left {left}"


@pytest.fixture(scope="module", autouse=True)
def nothing_stays(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each module of such tests and its fixtures, no cgroup and no directory of it is left, either."""
    if request.path.relative_to(HERE).parts[0] not in BOXES:
        yield
        return
    before = leaks.traces()
    yield
    leaks.remove_bases()
    left = leaks.left_since(before, "processes", "mounts", "cgroups", "directories")
    assert not left, f"the tests of this module left {left}"
