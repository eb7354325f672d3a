"""Matching of item names as customers write them."""

from __future__ import annotations

import pytest

from tasks.domains.nursery.item_names import find_name

NAMES = (
    "lavender",
    "lavender hidcote",
    "munstead lavender",
    "iceberg rose",
    "cherry tree",
    "box plants",
    "bird's foot",
)


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        ("lavender", "lavender"),
        ("Hidcote lavender", "lavender hidcote"),
        ("the hidcote lavenders", "lavender hidcote"),
        ("iceberg roses", "iceberg rose"),
        ("rose", "iceberg rose"),
        ("cherries", "cherry tree"),
        ("cherry", "cherry tree"),
        ("boxes plant", "box plants"),
        ("birds foot", "bird's foot"),
        ("bird foot", "bird's foot"),
        ("secateurs", None),
        ("!", None),
        ("", None),
    ],
)
def test_case_order_and_plural_do_not_count(wanted: str, name: str | None) -> None:
    assert find_name(wanted, NAMES) == name


def test_what_fits_two_names_equally_fits_none() -> None:
    assert find_name("lavender", NAMES[1:3]) is None
    assert find_name("hidcote and munstead lavender", NAMES[1:3]) is None
