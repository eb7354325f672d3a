"""Stage `evaluate`: every system answers the same rows, and the totals are means of the saved rows."""

from __future__ import annotations

from pathlib import Path

import pandas
import pytest

from tasks.core.errors import GraftError
from tasks.core.records import Example, Message, ToolCall
from tasks.core.settings import EngineSettings
from tasks.data.contract_spec import load_contract
from tasks.engine.loading import Model
from tasks.evaluate import check_effect, evaluate_system, totals
from tasks.evaluation.response_features import ResponseFeatures
from tasks.evaluation.scoring import Score
from tasks.prompt.encoding import Prompt
from tests.conftest import ROOT
from tests.support.scripted_engine import ScriptedEngine

CALL = ToolCall(name="find_order", arguments={"order_id": "HL-12345"})


def scripted(prompt: Prompt, text: str) -> ScriptedEngine:
    """An engine that answers every request with `text`, in one chunk."""
    ids = tuple(prompt.tokenizer.encode(text).ids)
    return ScriptedEngine(lambda _: iter([(text, ids, "stop")]))


def example(number: int, label: str, target: Message) -> Example:
    question = Message(role="user", content="please " * number)
    return Example(
        id=str(number), label=label, group=str(number), split="eval", source="x:1", messages=(question, target)
    )  # fmt: skip


@pytest.fixture
def rows(tiny_base: Path, tiny_prompts: Path) -> pandas.DataFrame:
    prompt = Prompt.load(tiny_prompts, tiny_base)
    terms = load_contract(ROOT / "data/contract.yaml")
    examples = [
        example(3, "order_status", Message(role="assistant", tool_calls=(CALL,))),
        example(1, "off_topic", Message(role="assistant", content="I can't help with that.")),
        example(2, "plant_care", Message(role="assistant", content="Water it twice a week.")),
    ]
    settings = EngineSettings(name="transformers", dtype="float32", max_new_tokens=64)
    caller = scripted(
        prompt, prompt.render([Message(role="assistant", tool_calls=(CALL,))]).split("assistant\n")[1][:-11]
    )
    refuser = scripted(prompt, "I can't say.")
    answers = [
        row
        for name, engine in (("candidate", caller), ("base", refuser))
        for row in evaluate_system(name, Model(engine, prompt, settings, 768), examples, terms, batch_size=2)
    ]
    assert caller.together == [2, 1]
    return pandas.DataFrame(answers).assign(peak_memory_mb=lambda t: t["system"].map({"candidate": 2.0, "base": 1.0}))


def test_each_system_answers_each_row(rows: pandas.DataFrame) -> None:
    assert {*ResponseFeatures.model_fields, *Score.model_fields} <= set(rows.columns)
    by = rows.set_index(["system", "label"])
    assert by.loc[("candidate", "order_status"), "quality"] == 1.0
    assert by.loc[("candidate", "off_topic"), "quality"] == 0.0
    assert by.loc[("base", "off_topic"), "quality"] == 1.0
    assert by.loc[("base", "plant_care"), "quality"] == 0.0  # it refused where it should have answered
    assert by.loc[("candidate", "plant_care"), "tool_name"] == "find_order"
    assert set(rows["language"]) == {"en"}
    assert (rows["decoded_tokens"] == rows["completion_tokens"]).all()  # no system called the lookup tool


def test_totals_are_the_means_of_the_rows(rows: pandas.DataFrame) -> None:
    results = totals(rows)
    assert list(results) == ["candidate", "base"]
    for system, metrics in results.items():
        part = rows[rows["system"] == system]
        assert metrics["all"]["n"] == 3
        assert metrics["peak_memory_mb"] == part["peak_memory_mb"].iloc[0]
        assert metrics["all"]["quality"] == round(part["quality"].mean(), 4)
        assert metrics["labels"]["order_status"]["n"] == 1
    assert "tool_call_match" not in results["base"]["labels"]["plant_care"]


def test_a_candidate_that_says_what_its_base_says_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """The systems may have answered in different orders."""
    base = [{"system": "base", "id": name, "text": f"about {name}"} for name in ("a", "b", "c")]
    same = [{**row, "system": "candidate"} for row in reversed(base)]
    with pytest.raises(GraftError, match="all 3 eval rows are the base's"):
        check_effect(pandas.DataFrame(base + same))
    check_effect(pandas.DataFrame([*base, *same[:2], {**same[2], "text": "something else"}]))
    assert "1 of 3 answers differ from the base's" in capsys.readouterr().out
