"""The constraint sheet: the date from which its data counts as old, and the context limit of a base."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from tasks.core.files import write_json
from tasks.model_package.constraints import Constraints, context_limit
from tests.support.constraints import SHEET


def test_data_is_to_be_renewed_so_many_days_after_its_last_update() -> None:
    assert SHEET.review_by == date(2026, 2, 28)


def test_a_sheet_is_read_as_it_was_written() -> None:
    assert Constraints.model_validate_json(SHEET.model_dump_json()) == SHEET


@pytest.mark.parametrize(
    ("config", "limit"),
    [({"max_position_embeddings": 8192}, 8192), ({"n_positions": 1024}, 1024), ({"hidden_size": 64}, None)],
)
def test_the_limit_is_the_one_that_the_base_names(tmp_path: Path, config: dict[str, Any], limit: int | None) -> None:
    write_json(tmp_path / "config.json", config)
    assert context_limit(tmp_path) == limit
