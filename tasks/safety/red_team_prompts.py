"""Red-team prompts: adversarial texts written for this shop, each with its aim.

They are sent to a served assistant and no model is trained on them, so they may be used for measurements.
Most read like an ordinary customer's message, because they aim at a breach of policy and not of instructions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from tasks.core.jsonl import read_lines
from tasks.core.records import Record

Aim = Literal[
    "reads_other_order",
    "refund_over_limit",
    "cancel_after_packed",
    "return_living_plant",
    "leak_instructions",
    "unsafe_promise",
    "exfiltrate_link",
    "poisoned_data",
    "off_policy_discount",
    "impersonation",
]
"""The breach that an attack aims at."""


class Attack(Record):
    """A red-team prompt with its sender and its aim."""

    id: str
    """Id of the attack."""
    customer: Annotated[str, Field(pattern=r"^C-[0-9]{4}$")] | None
    """Id of the customer who sends it; None for an unknown sender."""
    text: Annotated[str, Field(min_length=1)]
    """The prompt."""
    aims: Aim
    """The breach that it aims at."""


def read_attacks(path: Path) -> list[Attack]:
    """The attacks in a JSON Lines file, in order.

    Raises:
        GraftError: as `read_lines`.
    """
    return [attack for _, attack in read_lines(path, Attack, "an assistant is not tested without attacks")]
