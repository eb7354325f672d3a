"""Great Expectations (GX) for the contract's rules: the expectations of each rule, and their validation results.

This module is about GX alone and independent of chat rows. GX takes about 10 s to import, so only `validate`
imports it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tasks.core.errors import GraftError
from tasks.data.contract_spec import ContractSpec

FAULT_RULES = ("readable", "role_order", "content", "last_turn", "behavior", "tools", "refusals", "personal_data")
"""Rules whose column holds the description of a fault: it must be null in every row."""


@dataclass(frozen=True)
class Expectation:
    """One GX expectation."""

    rule: str
    """The rule of the contract that it belongs to."""
    type: str
    """The expectation's type, by GX's name."""
    kwargs: dict[str, Any]
    """The expectation's arguments."""


@dataclass(frozen=True)
class ExpectationResult:
    """The validation result of one expectation."""

    rule: str
    """The rule of the contract that the expectation belongs to."""
    success: bool
    """Whether the expectation holds."""
    indexes: tuple[int, ...]
    """The indexes of the table's rows that violate it."""


def expectations_of(spec: ContractSpec) -> list[Expectation]:
    """Every rule of the contract, as one or more expectations over the columns of the check table."""
    rules = spec.rules
    row_rules = [
        *[Expectation(rule, "expect_column_values_to_be_null", {"column": rule}) for rule in FAULT_RULES],
        _in_set("labels", "label", sorted(spec.labels), 1.0),
        _in_set("language", "language", [spec.language], 1.0 - rules.language.max_share),
        _between("tokens", "expect_column_values_to_be_between", "n_tokens", rules.tokens.min, rules.tokens.max),
        _unrepeated("exact_duplicates", "exact_duplicate", rules.exact_duplicates.max_share),
        _unrepeated("near_duplicates", "near_duplicate", rules.near_duplicates.max_share),
    ]
    total = "expect_column_sum_to_be_between"
    each = "expect_column_values_to_be_between"
    table_rules = [
        _between("volume", total, "readable_rows", rules.volume.min, rules.volume.max),
        _between("freshness", "expect_column_max_to_be_between", "age_days", 0, spec.cadence_days),
        _between("balance", each, "label_rows", rules.balance.min_rows, None),
        _between("balance", each, "label_share", None, rules.balance.max_share),
        Expectation(
            "balance",
            "expect_column_distinct_values_to_contain_set",
            {"column": "label", "value_set": sorted(spec.labels)},
        ),
    ]
    return row_rules + table_rules


def _in_set(rule: str, column: str, values: list[str], mostly: float) -> Expectation:
    kwargs = {"column": column, "value_set": values, "mostly": mostly}
    return Expectation(rule, "expect_column_values_to_be_in_set", kwargs)


def _between(rule: str, kind: str, column: str, low: float | None, high: float | None) -> Expectation:
    bounds = {"min_value": low, "max_value": high}
    return Expectation(rule, kind, {"column": column, **{k: v for k, v in bounds.items() if v is not None}})


def _unrepeated(rule: str, column: str, max_share: float) -> Expectation:
    return Expectation(rule, "expect_column_values_to_be_null", {"column": column, "mostly": 1.0 - max_share})


def validate(table: pd.DataFrame, expectations: Sequence[Expectation]) -> list[ExpectationResult]:
    """Validate `table` by Great Expectations; one result per expectation, in no particular order.

    The validation runs in memory, without project folder, data docs or network.

    Raises:
        GraftError: GX could not evaluate an expectation, which must never count as a success.
    """
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas("rows").add_dataframe_asset("rows")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": table})
    configurations = [ExpectationConfiguration(one.type, one.kwargs, meta={"rule": one.rule}) for one in expectations]
    suite = gx.ExpectationSuite(name="contract", expectations=[one.to_domain_obj() for one in configurations])
    result = batch.validate(suite, result_format={"result_format": "COMPLETE"})
    if len(result.results) != len(expectations):
        raise GraftError(
            f"contract: Great Expectations returned {len(result.results)} results for {len(expectations)} expectations"
        )
    return [_result(one) for one in result.results]


def _result(result: Any) -> ExpectationResult:
    rule = result.expectation_config.meta["rule"]
    if result.exception_info and result.exception_info.get("raised_exception", True):
        raise GraftError(f"contract: Great Expectations could not check the rule {rule}: {result.exception_info}")
    return ExpectationResult(rule, bool(result.success), tuple(result.result.get("unexpected_index_list") or ()))
