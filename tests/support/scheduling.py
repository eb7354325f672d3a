"""Test scheduling: which tests are marked slow, which share a process of pytest-xdist, and which begin first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from xdist.scheduler import LoadScopeScheduling

SLOW_FOLDERS = ("tests/e2e/", "tests/integration/")
SERVERS = {"stack", "ray_stack", "s3_server"}
"""Fixtures that start servers: a test that uses one is slow."""
STACK_FILES = (
    "tests/deployments/stack/test_prefect_login.py",
    "tests/flows/release_steps/test_dvc_stages.py",
    "tests/integration/test_kill_minus_9.py",
    "tests/integration/test_release.py",
    "tests/integration/test_tutorial_own_data.py",
)
"""The files with tests on the one Prefect stack, which run one after the other in one process."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the slow tests, and sort the files, the longest first: short ones fill the last minutes of a process.

    Raises:
        pytest.UsageError: a test uses the stack and is in no file of `STACK_FILES`.
    """
    for item in items:
        if "stack" in fixtures(item) and file_of(item.nodeid) not in STACK_FILES:
            raise pytest.UsageError(f"{item.nodeid}: add its file to STACK_FILES in tests/support/scheduling.py")
        if is_slow(item):
            item.add_marker(pytest.mark.slow)
    items.sort(key=rank)


def fixtures(item: pytest.Item) -> set[str]:
    return set(getattr(item, "fixturenames", ()))


def file_of(nodeid: str) -> str:
    return nodeid.partition("::")[0]


def is_slow(item: pytest.Item) -> bool:
    """Whether a test belongs to the end-to-end or integration tests, or starts servers."""
    return item.nodeid.startswith(SLOW_FOLDERS) or bool(SERVERS & fixtures(item))


def rank(item: pytest.Item) -> int:
    """The order of files: end to end, the Prefect stack, other slow tests, all others."""
    if item.nodeid.startswith("tests/e2e/"):
        return 0
    if file_of(item.nodeid) in STACK_FILES:
        return 1
    return 2 if item.get_closest_marker("slow") else 3


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Send a file's tests to one process, since they share the fixtures of their module.

    `--dist loadgroup` would do it by marks, but pytest-xdist 3.8 writes the group into an attribute that
    pytest 9.2 no longer reads, and spreads the tests of a group without a word.
    """
    from xdist.scheduler import LoadScopeScheduling

    class FileScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = file_of(nodeid)
            return "stack" if file in STACK_FILES else file

    config.option.loadscopereorder = False  # the order of `rank`
    return FileScheduling(config, log)
