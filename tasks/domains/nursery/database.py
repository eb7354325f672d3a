"""The shop's database: one SQLite file, created from tracked seed files and shared by several processes.

Readers see the last commit, and there is one writer at a time (WAL, `BEGIN IMMEDIATE`). Each
transaction has a connection of its own, so threads and processes need no coordination.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tasks.core.errors import GraftError
from tasks.core.jsonl import R, read_lines
from tasks.domains.nursery.entities import Customer, Item, Order
from tasks.domains.nursery.transaction import ShopTransaction

VERSION = 1
_MODE = 0o600
"""Only the user of the service reads its customers' data."""
BUSY_S = 3.0
"""Seconds that a writer waits for another: less than a tool's timeout, so that the wait ends as an error."""

SCHEMA = """
CREATE TABLE customers (id TEXT PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE items (
    name TEXT PRIMARY KEY, kind TEXT NOT NULL, price_pence INTEGER NOT NULL CHECK (price_pence > 0),
    in_stock INTEGER NOT NULL CHECK (in_stock >= 0), UNIQUE (name, kind)
) STRICT;
CREATE TABLE orders (
    id TEXT PRIMARY KEY, customer TEXT NOT NULL REFERENCES customers, status TEXT NOT NULL,
    placed_at TEXT NOT NULL, dispatch_on TEXT NOT NULL, deliver_on TEXT NOT NULL, delivered_on TEXT,
    courier TEXT, transit_days INTEGER NOT NULL, postage_pence INTEGER NOT NULL, charged_pence INTEGER NOT NULL,
    CHECK ((status = 'delivered') = (delivered_on IS NOT NULL))
) STRICT;
CREATE TABLE lines (
    order_id TEXT NOT NULL REFERENCES orders, item TEXT NOT NULL, kind TEXT NOT NULL,
    quantity INTEGER NOT NULL CHECK (quantity > 0), price_pence INTEGER NOT NULL, faulty INTEGER NOT NULL,
    PRIMARY KEY (order_id, item), FOREIGN KEY (item, kind) REFERENCES items (name, kind)
) STRICT;
CREATE TABLE returns (
    id INTEGER PRIMARY KEY, order_id TEXT NOT NULL, item TEXT NOT NULL, postage TEXT NOT NULL, arrived_on TEXT,
    UNIQUE (order_id, item), FOREIGN KEY (order_id, item) REFERENCES lines
) STRICT;
CREATE TABLE claims (
    id INTEGER PRIMARY KEY, order_id TEXT NOT NULL, item TEXT NOT NULL, problem TEXT NOT NULL,
    promise TEXT NOT NULL, accepted_on TEXT,
    UNIQUE (order_id, item), FOREIGN KEY (order_id, item) REFERENCES lines
) STRICT;
CREATE TABLE refunds (
    id INTEGER PRIMARY KEY, order_id TEXT NOT NULL REFERENCES orders, reason TEXT NOT NULL,
    pence INTEGER NOT NULL CHECK (pence > 0), UNIQUE (order_id, reason)
) STRICT;
CREATE TABLE tickets (id INTEGER PRIMARY KEY, customer TEXT REFERENCES customers, topic TEXT NOT NULL) STRICT;
CREATE TABLE calls (
    key TEXT PRIMARY KEY, tool TEXT NOT NULL, arguments_hash TEXT NOT NULL, result TEXT NOT NULL
) STRICT;
"""


@dataclass(frozen=True)
class Shop:
    """A database file that exists; see `open_shop`."""

    path: Path

    @contextmanager
    def transaction(self, *, write: bool) -> Iterator[ShopTransaction]:
        """A transaction: committed when the block ends, rolled back when it raises.

        Raises:
            sqlite3.OperationalError: another writer held the database for `BUSY_S`.
        """
        with closing(sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None)) as connection:
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute(f"PRAGMA query_only = {'OFF' if write else 'ON'}")
            connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            try:
                yield ShopTransaction(connection)
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")


def open_shop(path: Path, seed: Path) -> Shop:
    """The shop at `path`, created from the folder `seed` by the first process that opens it.

    Raises:
        GraftError: a seed file is wrong, or the file there has another layout.
    """
    if not path.exists():
        _make(path, seed)
    if path.stat().st_mode & 0o077:  # as version 0.1 made it
        path.chmod(_MODE)
    try:
        with closing(sqlite3.connect(path, timeout=BUSY_S)) as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
    except sqlite3.DatabaseError as error:
        raise GraftError(f"{path}: no database of the shop ({error}); remove it, and it is made anew") from error
    if version != VERSION:
        raise GraftError(f"{path}: layout {version}, expected {VERSION}; remove it, and it is made anew")
    return Shop(path)


def _make(path: Path, seed: Path) -> None:
    """Write the database beside `path`, then link it there unless another process has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        made = Path(folder) / path.name
        with closing(sqlite3.connect(made, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.executescript(f"BEGIN; {SCHEMA}")
            _fill(ShopTransaction(connection), seed)
            connection.execute(f"PRAGMA user_version = {VERSION}")
            connection.execute("COMMIT")
        made.chmod(_MODE)
        try:
            os.link(made, path)
        except FileExistsError:
            return


def _fill(transaction: ShopTransaction, seed: Path) -> None:
    for customer in read_seed(seed / "customers.jsonl", Customer):
        transaction.add_customer(customer)
    for item in read_seed(seed / "items.jsonl", Item):
        transaction.add_item(item)
    for order in read_seed(seed / "orders.jsonl", Order):
        try:
            transaction.add_order(order)
        except sqlite3.IntegrityError as error:
            raise GraftError(f"{seed}/orders.jsonl: {order.id}: {error}; see its customer and items") from error


def read_seed(path: Path, record: type[R]) -> Iterator[R]:
    """The records in a seed file, one a line.

    Raises:
        GraftError: the file cannot be read, or a line is no such record.
    """
    for _, one in read_lines(path, record, "the shop begins with what it holds"):
        yield one
