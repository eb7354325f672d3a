"""The verdict of the gate's rules on known cases; their error rates are in test_error_rates.py."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tasks.core.errors import GraftError
from tasks.core.settings import GateSettings
from tasks.evaluation.outputs import Rate
from tasks.gate.verdict import GateVerdict, decide_gate, markdown
from tests.support.eval_rows import SETTINGS, evaluation


def judge(rows: pd.DataFrame, settings: GateSettings, **rates: Rate) -> GateVerdict:
    return decide_gate(rows, rates, settings)


def noisy(mean: float, n: int = 90, seed: int = 0) -> np.ndarray:
    return np.clip(np.random.default_rng(seed).normal(mean, 0.2, n), 0, 1)


def test_a_clear_gain_passes_and_says_so_in_numbers() -> None:
    verdict = judge(evaluation(base=noisy(0.3), candidate=noisy(0.7, seed=1)), SETTINGS)
    assert verdict.outcome == "pass"
    [overall] = [c for c in verdict.comparisons if not c.slice]
    assert overall.n == 90
    assert overall.difference == pytest.approx(overall.candidate - overall.other)
    assert overall.low < overall.difference < overall.high
    assert any(f"{overall.difference:+.3f}" in reason and "base" in reason for reason in verdict.reasons)


def test_interval_agrees_with_the_normal_approximation_with_a_row_won_and_one_lost() -> None:
    base, candidate = noisy(0.3), noisy(0.5, seed=1)
    [overall, *_] = judge(evaluation(base=base, candidate=candidate), SETTINGS).comparisons
    differences = np.append(candidate - base, (1, -1))
    half = 1.96 * differences.std(ddof=1) / np.sqrt(len(differences))
    assert overall.low == pytest.approx(differences.mean() - half, abs=0.01)
    assert overall.high == pytest.approx(differences.mean() + half, abs=0.01)


def test_rows_are_paired_by_id_and_not_by_their_order() -> None:
    rows = evaluation(base=noisy(0.3), candidate=noisy(0.3) * 0.9)
    shuffled = rows.sample(frac=1, random_state=3)
    assert judge(shuffled, SETTINGS) == judge(rows, SETTINGS)
    [overall, *_] = judge(rows, SETTINGS).comparisons
    assert overall.high - overall.low < 0.07  # unpaired, two such samples differ by twice as much


def test_same_rows_give_the_same_verdict() -> None:
    rows = evaluation(base=noisy(0.3), incumbent=noisy(0.4, seed=2), candidate=noisy(0.5, seed=1))
    assert judge(rows, SETTINGS) == judge(rows, SETTINGS)


def test_identical_candidate_does_not_pass() -> None:
    rows = evaluation(base=noisy(0.5), candidate=noisy(0.5))
    assert judge(rows, SETTINGS).outcome == "fail"
    assert judge(rows, SETTINGS.model_copy(update={"min_gain": 0.0})).outcome == "inconclusive"


def test_a_gain_that_noise_could_make_is_inconclusive() -> None:
    verdict = judge(evaluation(n=45, base=noisy(0.5, 45), candidate=noisy(0.57, 45, seed=1)), SETTINGS)
    assert verdict.outcome == "inconclusive"
    assert "more eval rows would narrow it" in verdict.reasons[0]


def test_too_few_rows_are_inconclusive_however_good() -> None:
    verdict = judge(evaluation(n=39, base=0.0, candidate=1.0), SETTINGS)
    assert verdict.outcome == "inconclusive"
    assert verdict.reasons == ("Only 39 rows were evaluated; a verdict needs at least 40.",)


@pytest.mark.parametrize(
    ("incumbent", "outcome"), [(0.7, "pass"), (0.71, "pass"), (0.95, "fail")], ids=["equal", "small loss", "worse"]
)
def test_incumbent_may_be_lost_to_by_little(incumbent: float, outcome: str) -> None:
    verdict = judge(evaluation(base=0.2, incumbent=incumbent, candidate=0.7), SETTINGS)
    assert verdict.outcome == outcome
    assert any("incumbent" in reason for reason in verdict.reasons)


def test_uncertain_loss_to_the_incumbent_is_inconclusive() -> None:
    rows = evaluation(n=45, base=0.0, incumbent=noisy(0.6, 45), candidate=noisy(0.6, 45, seed=1))
    assert judge(rows, SETTINGS).outcome == "inconclusive"


def test_answers_that_cannot_be_parsed_fail_whatever_the_quality() -> None:
    rows = evaluation(base=0.0, candidate=1.0)
    broken = rows["id"].isin([f"row-{i}" for i in range(9)])
    rows.loc[broken & (rows["system"] == "base"), "valid_format"] = False
    assert judge(rows, SETTINGS).outcome == "pass"  # the base's own failures are not the candidate's
    rows.loc[broken & (rows["system"] == "candidate"), "valid_format"] = False
    verdict = judge(rows, SETTINGS)
    assert verdict.outcome == "fail"
    assert verdict.reasons[0] == "90.0% of the answers can be parsed; at least 95.0% must."


def test_rows_that_cannot_be_paired_are_refused() -> None:
    rows = evaluation(base=0.2, candidate=0.6)
    with pytest.raises(GraftError, match=r"did not answer the same rows \(1 differ, such as row-89\)"):
        judge(rows.iloc[:-1], SETTINGS)
    with pytest.raises(GraftError, match="candidate answered row row-3 twice"):
        judge(pd.concat([rows, rows.iloc[[93]]]), SETTINGS)
    with pytest.raises(GraftError, match="none of the system candidate"):
        judge(rows[rows["system"] == "base"], SETTINGS)
    with pytest.raises(GraftError, match="no column quality"):
        judge(rows.drop(columns="quality"), SETTINGS)
    with pytest.raises(GraftError, match="row row-2 is not a number"):
        judge(rows.assign(quality=rows["quality"].where(rows["id"] != "row-2")), SETTINGS)


def test_a_real_gain_is_usually_seen() -> None:
    generator = np.random.default_rng(12)
    passed = sum(
        judge(
            evaluation(base=generator.random(90) < 0.3, candidate=generator.random(90) < 0.7),
            SETTINGS.model_copy(update={"resamples": 500}),
        ).outcome
        == "pass"
        for _ in range(20)
    )
    assert passed >= 18


def test_markdown_shows_outcome_reasons_and_every_comparison() -> None:
    verdict = judge(evaluation(base=0.2, incumbent=0.5, candidate=0.6), SETTINGS)
    page = markdown(verdict)
    assert page.startswith("# Gate: pass\n")
    assert all(f"- {reason}" in page for reason in verdict.reasons)
    for comparison in verdict.comparisons:
        assert f"| {comparison.n} | {comparison.candidate:.3f} | {comparison.other:.3f} |" in page
    assert "| base | 90 | 0.600 | 0.200 | +0.400 |" in page
    assert "| incumbent, label tool | 30 | 0.600 | 0.500 | +0.100 |" in page
    assert "| peak_memory_mb, incumbent | 800.0 | 800.0 | 1.00 | 1.00 | 1.00 |" in page


GOOD = evaluation(base=0.2, candidate=0.6)


def limited(**limits: dict[str, float]) -> GateSettings:
    return GateSettings.model_validate(SETTINGS.model_dump() | {"limits": limits})


@pytest.mark.parametrize(
    ("limit", "value", "outcome", "sentence"),
    [
        ({"min": 0.5}, 0.5, "pass", "End-to-end: tool_exact is 0.5 (60 rows); at least 0.5 is required."),
        ({"min": 0.5}, 0.49, "fail", "End-to-end: tool_exact is 0.49 (60 rows); at least 0.5 is required."),
        ({"max": 0}, 0.0, "pass", "End-to-end: tool_exact is 0 (60 rows); at most 0 is required."),
        ({"max": 0}, 1.0, "fail", "End-to-end: tool_exact is 1 (60 rows); at most 0 is required."),
        ({"min": 0.2, "max": 0.4}, 0.41, "fail", "at least 0.2 and at most 0.4 is required."),
    ],
)
def test_a_limit_of_the_end_to_end_evaluation_holds_at_its_edge(
    limit: dict[str, float], value: float, outcome: str, sentence: str
) -> None:
    verdict = judge(GOOD, limited(tool_exact=limit), tool_exact=Rate(n=60, value=value))
    assert verdict.outcome == outcome
    assert any(reason.endswith(sentence) for reason in verdict.reasons)


def test_a_breach_fails_whatever_the_quality_and_is_the_first_reason() -> None:
    settings = limited(policy_violations={"max": 0}, tool_exact={"min": 0.1})
    rates = {"policy_violations": Rate(n=654, value=1.0), "tool_exact": Rate(n=60, value=0.5)}
    for rows in (GOOD, evaluation(n=39, base=0.0, candidate=1.0)):
        verdict = judge(rows, settings, **rates)
        assert verdict.outcome == "fail"
        assert verdict.reasons[0].startswith("End-to-end: policy_violations is 1 (654 rows)")


def test_a_limit_of_no_rows_does_not_apply_and_one_that_was_not_measured_is_an_error() -> None:
    settings = limited(article_found={"min": 0.9})
    verdict = judge(GOOD, settings, article_found=Rate(n=0, value=None))
    assert verdict.outcome == "pass"
    assert "There are no rows for article_found, so its limit does not apply." in verdict.reasons
    with pytest.raises(
        GraftError, match=r"gate\.limits\.article_found: the stage `evaluate_assistant` measured no such rate"
    ):
        judge(GOOD, settings)


@pytest.mark.parametrize("limits", [{"tool_exakt": {"min": 0.5}}, {"tool_exact": {}}, {"tool_exact": {"least": 0.5}}])
def test_a_limit_that_would_hold_nothing_is_refused(limits: dict[str, dict[str, float]]) -> None:
    with pytest.raises(ValueError, match="tool_exa"):
        limited(**limits)


def test_a_candidate_is_called_better_only_if_all_of_the_interval_is_above_0() -> None:
    better = judge(evaluation(base=0.2, incumbent=0.5, candidate=0.6), SETTINGS)
    assert better.outcome == "pass"
    assert any(reason.endswith("and above 0: it is better.") for reason in better.reasons)
    equal = judge(evaluation(base=0.2, incumbent=0.6, candidate=0.6), SETTINGS)
    assert equal.outcome == "pass"
    assert any(reason.endswith("it is not shown to be better.") for reason in equal.reasons)
    assert (
        judge(evaluation(base=0.2, incumbent=0.6, candidate=0.6), changed(non_inferiority_margin=0.0)).outcome
        == "inconclusive"
    )


def changed(**values: float) -> GateSettings:
    return SETTINGS.model_copy(update=values)


def test_the_floor_of_quality_holds_whatever_the_others_do() -> None:
    rows = evaluation(base=0.0, incumbent=0.1, candidate=0.29)
    assert judge(rows, changed(min_quality=0.29)).outcome == "pass"
    verdict = judge(rows, changed(min_quality=0.3))
    assert verdict.outcome == "fail"
    assert verdict.reasons[0] == "Quality is 0.290; at least 0.300 is required of every candidate."


def test_a_lost_slice_fails_a_candidate_that_is_better_over_all() -> None:
    rows = evaluation(base=0.0, incumbent=0.5, candidate=0.9)
    rows.loc[(rows["system"] == "candidate") & (rows["label"] == "tool"), "quality"] = 0.1
    verdict = judge(rows, SETTINGS)
    assert verdict.outcome == "fail"
    assert verdict.reasons[0].startswith("Slice label tool: quality is 0.100 against the incumbent's 0.500 (30 rows)")


def test_costs_are_compared_with_the_incumbent_or_else_with_the_base() -> None:
    slow = {"base": 100.0, "incumbent": 400.0, "candidate": 400.0}
    rows = evaluation(base=0.2, incumbent=0.5, candidate=0.6)
    rows["first_token_ms"] = rows["system"].map(slow)
    assert judge(rows, SETTINGS).outcome == "pass"
    verdict = judge(rows[rows["system"] != "incumbent"], SETTINGS)
    assert verdict.outcome == "fail"
    assert verdict.reasons[0].startswith("The 95th percentile of the time to the first token is 400 ms against the")
    assert {one.against for one in verdict.efficiency} == {"base"}
