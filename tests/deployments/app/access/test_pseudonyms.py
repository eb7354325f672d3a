"""Pseudonyms of users in telemetry: one per user, which reveals nothing, by a key that is made once."""

from __future__ import annotations

import hashlib
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deployments.app.access.pseudonyms import Pseudonyms
from deployments.app.routing.traffic_split import user_bucket_key
from deployments.core.messages import TurnRequest
from tasks.core.errors import GraftError

CUSTOMERS = [user_bucket_key("shop", TurnRequest(customer=f"C-{number}")) for number in range(1000)]


def test_a_visitor_has_one_name_however_often_the_key_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "state" / "visitors.key"
    first, later = Pseudonyms.open(path), Pseudonyms.open(path)
    assert [first.pseudonym(one) for one in CUSTOMERS] == [later.pseudonym(one) for one in CUSTOMERS]
    assert len({first.pseudonym(one) for one in CUSTOMERS}) == len(CUSTOMERS)
    assert all(re.fullmatch("[0-9a-f]{16}", first.pseudonym(one)) for one in CUSTOMERS)


def test_without_the_key_a_name_cannot_be_had_by_trying_all_customers(tmp_path: Path) -> None:
    first, second = Pseudonyms.open(tmp_path / "a"), Pseudonyms.open(tmp_path / "b")
    plain = {hashlib.blake2b(one.encode(), digest_size=8).hexdigest() for one in CUSTOMERS}
    assert not {first.pseudonym(one) for one in CUSTOMERS} & ({second.pseudonym(one) for one in CUSTOMERS} | plain)


def test_the_key_is_its_owners_alone_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "visitors.key"
    Pseudonyms.open(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_bytes()) == 32
    assert list(tmp_path.iterdir()) == [path]


def test_replicas_that_start_together_have_one_key(tmp_path: Path) -> None:
    for number in range(20):
        path = tmp_path / f"{number}.key"
        with ThreadPoolExecutor(8) as pool:
            names = set(pool.map(lambda path: Pseudonyms.open(path).pseudonym("a user"), [path] * 8))
        assert len(names) == 1


def test_what_is_no_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "visitors.key"
    path.write_bytes(b"short")
    with pytest.raises(GraftError, match=r"visitors.key: 5 bytes, .* remove it"):
        Pseudonyms.open(path)
    assert path.read_bytes() == b"short"
