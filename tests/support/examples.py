"""Examples that a tiny model can learn: an order number is copied into a call."""

from __future__ import annotations

from pathlib import Path

from tasks.core.records import Example, Message, ToolCall
from tasks.data.examples import save_examples


def write_examples(folder: Path, train: int = 24, held_out: int = 4) -> Path:
    """Write `train.parquet` and `eval.parquet` to `folder`."""

    def example(number: int, split: str) -> Example:
        call = ToolCall(name="find_order", arguments={"order_id": f"HL-{number:05}"})
        messages = (
            Message(role="user", content=f"where is order {number:05}?"),
            Message(role="assistant", tool_calls=(call,)),
        )
        return Example(id=f"r{number}", label="a", group=f"r{number}", split=split, source="x:1", messages=messages)

    save_examples(folder / "train.parquet", [example(n, "train") for n in range(train)])
    save_examples(folder / "eval.parquet", [example(n, "eval") for n in range(train, train + held_out)])
    return folder
