"""The guest that the tests of this directory run in: our package installed in it as an admin would, once."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from vm.guest import Guest

PREFIX = Path("/opt/condor_starter")  # a venv with our dependencies, which the image has


def pytest_configure() -> None:
    """Do what systemd/README.md says, with the wheel that this run was given: tests import what it has."""
    (wheel,) = Path(os.environ["CONDOR_STARTER_WHEELS"]).glob("*.whl")
    run(f"{PREFIX}/bin/pip", "install", "--quiet", "--no-index", "--no-deps", str(wheel))
    units = PREFIX / "share" / "condor_starter" / "systemd"
    for unit in (*units.glob("*.service"), *units.glob("*.slice")):
        shutil.copy(unit, "/etc/systemd/system")
    shutil.copy(units / "condor_starter.sysusers", "/usr/lib/sysusers.d/condor_starter.conf")
    shutil.copy(units / "condor_starter.tmpfiles", "/usr/lib/tmpfiles.d/condor_starter.conf")
    run("systemd-sysusers", "condor_starter.conf")
    run("systemd-tmpfiles", "--create", "condor_starter.conf")
    run("systemctl", "daemon-reload")


@pytest.fixture
def guest() -> Iterator[Guest]:
    """The guest, in which a test must leave nothing."""
    from vm.guest import Guest

    found = Guest()
    yield found
    found.assert_clean()


@pytest.fixture(scope="module")
def service() -> Iterator[Guest]:
    """The guest with both daemons running under systemd; at the end they are stopped."""
    from vm.guest import Guest

    found = Guest()
    found.systemctl("start", "condor_starter_procd", "condor_starterd")
    found.wait_for_api()
    yield found
    found.systemctl("stop", "condor_starterd", "condor_starter_procd")
    found.assert_clean()


def run(*argv: str) -> None:
    """A step of the installation, which must succeed."""
    subprocess.run(argv, check=True, timeout=120)
