"""A constraint sheet for the packages of tests."""

from __future__ import annotations

from datetime import date

from tasks.model_package.constraints import Constraints

SHEET = Constraints(
    base_licence="Apache-2.0",
    data_licence="CC0-1.0",
    data_owner="tests",
    data_updated=date(2026, 1, 31),
    review_after_days=28,
    intended_use="tests",
    forbidden_uses=("customers", "advice"),
    languages=("en",),
    context_tokens=1000,
    base_context_tokens=4096,
)
