"""Prepared examples as Parquet files: one file per split, one row per `Example`, messages as JSON text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.errors import GraftError
from tasks.core.files import write_bytes
from tasks.core.records import Example, dump_messages, load_messages

COLUMNS = ("id", "label", "group", "split", "source", "messages")
SCHEMA = pa.schema([(name, pa.string()) for name in COLUMNS])


def save_examples(path: Path, examples: Sequence[Example]) -> None:
    """Write `examples` as Parquet in their order, whole or not at all; an empty split is an empty table."""
    rows = [{**e.model_dump(exclude={"messages"}), "messages": dump_messages(e.messages)} for e in examples]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), sink)
    write_bytes(path, sink.getvalue().to_pybytes())


def load_examples(path: Path) -> list[Example]:
    """The examples of one split, in the order in which they were written.

    Raises:
        GraftError: the file is missing, or is not a table of examples.
    """
    if not path.is_file():
        raise GraftError(f"{path}: the examples are missing; run the stage `prepare` first")
    try:
        rows = pq.read_table(path, columns=list(COLUMNS)).to_pylist()
        return [Example.model_validate({**row, "messages": load_messages(row["messages"])}) for row in rows]
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise GraftError(f"{path}: not a table of examples ({error}); run the stage `prepare` again") from error
