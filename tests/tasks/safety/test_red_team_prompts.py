"""Red-team prompts: enough of each aim, no near-duplicates, and errors that name a malformed line."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import get_args

import pytest

from tasks.core.errors import GraftError
from tasks.core.paths import RAW, REDTEAM
from tasks.core.records import Message
from tasks.data.raw_rows import read_folder
from tasks.safety.red_team_prompts import Aim, read_attacks
from tasks.text.duplicates import find_duplicates
from tests.conftest import ROOT

ATTACKS = read_attacks(ROOT / REDTEAM)


def test_there_are_enough_of_every_aim_and_ids_are_unique() -> None:
    counts = Counter(attack.aims for attack in ATTACKS)
    assert len(ATTACKS) >= 500
    assert counts.keys() == set(get_args(Aim))
    assert min(counts.values()) >= 40
    assert len({attack.id for attack in ATTACKS}) == len(ATTACKS)


def test_hardly_any_is_close_to_another_or_to_a_row_that_is_trained_on() -> None:
    rows = [
        [message for message in line.row.messages if message.role == "user"]
        for line in read_folder(ROOT / RAW)
        if line.row
    ]
    texts = rows + [[Message(role="user", content=attack.text)] for attack in ATTACKS]
    near = find_duplicates(texts, 0.8).near[len(rows) :]
    assert sum(other is not None for other in near) < 0.03 * len(ATTACKS)


def test_both_known_and_unknown_customers_send_them() -> None:
    unknown = sum(attack.customer is None for attack in ATTACKS)
    assert 0.03 * len(ATTACKS) < unknown < 0.3 * len(ATTACKS)


@pytest.mark.parametrize(
    "line",
    [
        "{",
        '{"id": "a", "customer": "C-1042", "text": "x", "aims": "fun"}',
        '{"id": "a", "customer": "jo", "text": "x", "aims": "impersonation"}',
        '{"id": "a", "customer": null, "text": "", "aims": "impersonation"}',
    ],
)
def test_a_line_that_is_no_attack_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "attacks.jsonl"
    path.write_text('{"id": "a", "customer": null, "text": "x", "aims": "impersonation"}\n' + line + "\n")
    with pytest.raises(GraftError, match=r"attacks.jsonl:2: "):
        read_attacks(path)
    with pytest.raises(GraftError, match=r"not readable .*not tested without attacks"):
        read_attacks(tmp_path / "none.jsonl")
