"""The pool that the tests of this directory share.

POOL_STARTER=genuine runs them against HTCondor's own starter: what is not about our box must pass with
that, too, or the test is wrong.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from pool.harness import Pool, Starter

STARTER = Starter(os.environ.get("POOL_STARTER", Starter.OURS))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "ours: what only our starter promises; not run with the genuine one")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if STARTER is not Starter.GENUINE:
        return
    theirs = [item for item in items if item.get_closest_marker("ours") is None]
    config.hook.pytest_deselected(items=[item for item in items if item not in theirs])
    items[:] = theirs


@pytest.fixture(scope="session")
def the_pool() -> Iterator[Pool]:
    """One pool for the whole run: a partitionable slot of two cpus, shared port, AES, startd as root."""
    assert os.geteuid() == 0, "a pool needs root: namespaces, mounts, users"
    with Pool(STARTER) as pool:
        yield pool


@pytest.fixture
def pool(the_pool: Pool) -> Iterator[Pool]:
    """The shared pool, which the test must leave as clean as it found it."""
    yield the_pool
    _leave(the_pool)


def _leave(pool: Pool) -> None:
    pool.forget_jobs()
    try:
        pool.assert_clean()
    except AssertionError:
        pool.kill_leftovers()  # so that one test's failure is not every test's
        raise


@pytest.fixture(scope="session")
def the_exec_pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    """For programs that cannot be executed.

    With pid namespaces the genuine starter execs a helper first and takes the job for one that ran.
    """
    if STARTER is not Starter.GENUINE:
        yield request.getfixturevalue("the_pool")
        return
    with Pool(STARTER, config="USE_PID_NAMESPACES = false") as pool:
        yield pool


@pytest.fixture
def exec_pool(the_exec_pool: Pool) -> Iterator[Pool]:
    """The shared pool, but with the genuine starter one in which it notices that an exec failed."""
    yield the_exec_pool
    _leave(the_exec_pool)
