"""The pools that the tests of this directory share.

Every test runs with our starter as it is meant to be used: the thin client that the startd starts,
condor_starterd, condor_starter_procd. Those marked ``direct`` run once more with a condor_starter that does
it all in its own process. POOL_STARTER=genuine runs them against HTCondor's own: what is not about our box
must pass with that, too, or the test is wrong.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from pool.harness import Pool, Starter

ONLY = os.environ.get("POOL_STARTER", "")
"""One starter for all tests."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "ours: what only our starter promises; not run with the genuine one")
    config.addinivalue_line("markers", "direct: run without condor_starterd, too")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "the_pool" in metafunc.fixturenames:
        starters = [Starter.DAEMON]
        if metafunc.definition.get_closest_marker("direct"):
            starters.append(Starter.DIRECT)
        if ONLY:
            starters = [Starter(ONLY)]
        metafunc.parametrize("the_pool", starters, indirect=True, scope="session", ids=str)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if ONLY != Starter.GENUINE:
        return
    theirs = [item for item in items if item.get_closest_marker("ours") is None]
    config.hook.pytest_deselected(items=[item for item in items if item not in theirs])
    items[:] = theirs


@pytest.fixture(scope="session")
def the_pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    """One pool for many tests: a partitionable slot of two cpus, shared port, AES, startd as root."""
    assert os.geteuid() == 0, "a pool needs root: namespaces, mounts, users"
    with Pool(request.param) as pool:
        yield pool


@pytest.fixture
def pool(the_pool: Pool) -> Iterator[Pool]:
    """The shared pool, which the test must leave as clean as it found it."""
    yield the_pool
    leave(the_pool)


def leave(pool: Pool) -> None:
    """After a test: no job in the queue, nothing of any job on the machine."""
    pool.forget_jobs()
    try:
        pool.assert_clean()
    except AssertionError:
        pool.kill_leftovers()  # so that one test's failure is not every test's
        raise


@pytest.fixture(scope="session")
def the_exec_pool(the_pool: Pool) -> Iterator[Pool]:
    """For programs that cannot be executed.

    With pid namespaces the genuine starter execs a helper first and takes the job for one that ran.
    """
    if the_pool.starter is not Starter.GENUINE:
        yield the_pool
        return
    with Pool(Starter.GENUINE, config="USE_PID_NAMESPACES = false") as pool:
        yield pool


@pytest.fixture
def exec_pool(the_exec_pool: Pool) -> Iterator[Pool]:
    """The shared pool, but with the genuine starter one in which it notices that an exec failed."""
    yield the_exec_pool
    leave(the_exec_pool)
