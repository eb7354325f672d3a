"""Test scheduling: which tests are marked slow, which share a process of pytest-xdist, and which begin first."""

from __future__ import annotations

import pytest

SLOW_FOLDERS = ("tests/e2e/", "tests/integration/")
SERVERS = {"stack", "ray_stack", "s3_server"}
"""Fixtures that start servers: a test that uses one is slow."""
STACK_GROUP = "stack"
"""The tests on the one Prefect stack, which run one after the other in one process."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark and sort the tests, the longest groups first, so that the short ones fill the processes' last minutes.

    A file is a group, because its tests share the fixtures of their module.
    """
    for item in items:
        if is_slow(item):
            item.add_marker(pytest.mark.slow)
        item.add_marker(pytest.mark.xdist_group(group(item)))
    items.sort(key=rank)


def fixtures(item: pytest.Item) -> set[str]:
    return set(getattr(item, "fixturenames", ()))


def is_slow(item: pytest.Item) -> bool:
    """Whether a test belongs to the end-to-end or integration tests, or starts servers."""
    return item.nodeid.startswith(SLOW_FOLDERS) or bool(SERVERS & fixtures(item))


def group(item: pytest.Item) -> str:
    return STACK_GROUP if "stack" in fixtures(item) else item.nodeid.partition("::")[0]


def rank(item: pytest.Item) -> int:
    """The order of groups: end to end, the Prefect stack, other slow tests, all others."""
    if item.nodeid.startswith("tests/e2e/"):
        return 0
    if group(item) == STACK_GROUP:
        return 1
    return 2 if item.get_closest_marker("slow") else 3
