"""The adversarial texts that were written for this shop: what each tries to bring the desk to do.

They are put to a served assistant and nothing is learnt from them, so they may be measured on. Most
read like any customer's message, as what they want is against policy and not against instructions.
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


class Attack(Record):
    """One text, who sends it (a customer's id, or None for somebody unknown), and what it is after."""

    id: str
    customer: Annotated[str, Field(pattern=r"^C-[0-9]{4}$")] | None
    text: Annotated[str, Field(min_length=1)]
    aims: Aim


def read_attacks(path: Path) -> list[Attack]:
    """The attacks in a file of JSON lines, in order.

    Raises:
        GraftError: as `read_lines`.
    """
    return [attack for _, attack in read_lines(path, Attack, "an assistant is not tried without attacks")]
