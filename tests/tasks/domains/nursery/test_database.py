"""The shop's database: created once from its seed, whole or not at all, and shared by processes.

Also covers `tasks/domains/nursery/entities.py`.
"""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.core.errors import GraftError
from tasks.core.paths import SHOP_SEED
from tasks.domains.nursery.database import Shop, open_shop
from tasks.domains.nursery.entities import Claim, Refund, Return
from tests.conftest import ROOT
from tests.support.shop_factory import OTHER, OWN, TODAY, coming, make_shop, order, table

OPENS = """
import sys
from pathlib import Path
from tasks.domains.nursery.database import open_shop
sys.stdin.readline()
shop = open_shop(Path(sys.argv[1]), Path(sys.argv[2]))
for number in range(20):
    with shop.transaction(write=True) as transaction:
        print(transaction.add_ticket(None, "other"))
"""


def test_an_order_is_read_back_as_it_was_seeded(tmp_path: Path) -> None:
    seeded = order(
        returns=(Return(item="phlox", postage="ours"),),
        claims=(Claim(item="phlox", problem="dead", promise="first_season"),),
        refunds=(Refund(reason="late", pence=695),),
    )
    with make_shop(tmp_path, seeded).transaction(write=False) as transaction:
        assert transaction.order(seeded.id) == seeded
        assert transaction.order("HL-99999") is None


def test_opening_again_keeps_what_was_written(tmp_path: Path) -> None:
    shop = make_shop(tmp_path, order())
    with shop.transaction(write=True) as transaction:
        transaction.add_ticket(OWN, "trade")
    assert table(open_shop(shop.path, tmp_path / "seed"), "tickets") == [(1, OWN, "trade")]


def test_what_is_not_finished_is_undone(tmp_path: Path) -> None:
    shop = make_shop(tmp_path, order())
    with pytest.raises(ZeroDivisionError), shop.transaction(write=True) as transaction:
        transaction.add_ticket(OWN, "trade")
        raise ZeroDivisionError
    assert table(shop, "tickets") == []


def test_a_reader_cannot_write(tmp_path: Path) -> None:
    shop = make_shop(tmp_path, order())
    with pytest.raises(sqlite3.OperationalError, match="readonly"), shop.transaction(write=False) as transaction:
        transaction.add_ticket(OWN, "trade")


def test_a_reader_does_not_wait_for_a_writer(tmp_path: Path) -> None:
    shop = make_shop(tmp_path, coming(TODAY))
    with shop.transaction(write=True) as writer, shop.transaction(write=False) as reader:
        writer.cancel("HL-00001")
        seen = reader.order("HL-00001")
    assert seen is not None
    assert seen.status == "placed"


def test_rows_that_point_nowhere_are_refused(tmp_path: Path) -> None:
    with pytest.raises(GraftError, match=r"orders.jsonl: HL-00001: FOREIGN KEY"):
        make_shop(tmp_path, order(customer="C-9999"))
    assert not (tmp_path / "shop.sqlite").exists()
    with (
        make_shop(tmp_path, order(customer=OTHER)).transaction(write=True) as transaction,
        pytest.raises(sqlite3.IntegrityError),
    ):
        transaction.add_return("HL-00001", Return(item="zinc pot", postage="ours"))


def test_a_wrong_seed_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "customers.jsonl").write_text('{"id": "C-1", "name": "A", "email": "a@example.com"}\n{"id": 3}\n')
    with pytest.raises(GraftError, match=r"customers.jsonl:2: "):
        open_shop(tmp_path / "shop.sqlite", tmp_path)
    with pytest.raises(GraftError, match=r"customers.jsonl: not readable"):
        open_shop(tmp_path / "shop.sqlite", tmp_path / "nowhere")
    assert not (tmp_path / "shop.sqlite").exists()


def test_a_file_of_another_layout_is_refused(tmp_path: Path) -> None:
    old = tmp_path / "old.sqlite"
    sqlite3.connect(old).close()
    old.touch()
    with pytest.raises(GraftError, match="layout 0, expected 1; remove it"):
        open_shop(old, tmp_path)
    (tmp_path / "text").write_text("this is a text and no database at all, however long it is" * 20)
    with pytest.raises(GraftError, match="no database of the shop"):
        open_shop(tmp_path / "text", tmp_path)


def test_processes_that_come_at_once_share_one_shop(tmp_path: Path) -> None:
    path = tmp_path / "shop.sqlite"
    command = [sys.executable, "-c", OPENS, str(path), str(ROOT / SHOP_SEED)]
    children = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    numbers = [int(number) for child in children for number in child.communicate()[0].split()]
    assert [child.returncode for child in children] == [0, 0, 0]
    assert sorted(numbers) == list(range(1, 61))
    assert len(table(Shop(path), "tickets")) == 60
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == []
