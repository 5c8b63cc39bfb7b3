"""Fixtures of the docker suite. Keep this directory without __init__.py: `docker` is a package of others."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from env.docker_house import Body, Engine, run_in_house, start_engine


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """The suite's engine."""
    assert os.geteuid() == 0, "the docker suite starts an engine of its own: run it as root"
    engine = start_engine()
    yield engine
    engine.script("stop")


@pytest.fixture
def own_engine() -> Iterator[Engine]:
    """An engine for one test, which may stop or kill it."""
    engine = start_engine()
    yield engine
    engine.script("stop")


@pytest.fixture
def house(engine: Engine) -> Iterator[Callable[[Body], None]]:
    """Runs a coroutine with a House; afterwards no container, cgroup or scratch directory is left."""
    yield lambda body: run_in_house(engine, body)
    assert engine.containers() == []
