"""Tests of the prompt diff: the text that the model reads of two prompts, and their packages' evaluations."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tasks.core.errors import GraftError
from tasks.core.files import write_json, write_text
from tasks.core.paths import BUILD, PARAMS, PROMPTS
from tasks.core.settings import load_settings
from tasks.model_package.manifest import MANIFEST, read_manifest
from tasks.prompt.template import PromptSource
from tasks.registry.registry import PRODUCTION, LocalRegistry
from tasks.reports.prompt_diff import compare, describe, describe_difference, render, unified
from tasks.reports.prompt_versions import PromptVersion, find_prompt
from tests.conftest import ROOT, make_tokenizer

GATE = load_settings(ROOT / PARAMS).gate
QUALITY = [0.0, 0.5, 1.0, 0.5] * 10


def rows(quality: list[float], first: int = 0) -> pd.DataFrame:
    """The candidate's rows with these qualities, ids counted from `first`; the base's are all 0."""
    table = pd.DataFrame({"quality": [0.0] * len(quality) + quality})
    table["system"] = ["base"] * len(quality) + ["candidate"] * len(quality)
    table["id"] = [f"r{first + index}" for index in range(len(quality))] * 2
    table["expected"] = table["id"] + " expected"
    table["tool_call_match"] = [1.0 if index % 2 else float("nan") for index in range(len(quality))] * 2
    table["refusal_correct"] = True
    table["valid_format"] = True
    return table


def write_scores(evaluation: Path, digest: str, quality: list[float]) -> None:
    totals = {"n": len(quality), "quality": sum(quality) / len(quality), "tool_call_match": 1.0}
    totals |= {"refusal_correct": 1.0, "valid_format": 1.0}
    write_json(evaluation / "scores.json", {"digest": digest, "systems": {"candidate": {"all": totals}}})


@pytest.fixture
def registry(tmp_path: Path, tiny_prompts: Path, monkeypatch: pytest.MonkeyPatch) -> LocalRegistry:
    """An empty registry; the working directory has `data/prompts` and `params.yaml`, and nothing is built."""
    shutil.copytree(tiny_prompts, tmp_path / "repository" / PROMPTS)
    shutil.copy(ROOT / PARAMS, tmp_path / "repository")
    monkeypatch.chdir(tmp_path / "repository")
    return LocalRegistry(tmp_path / "registry")


@pytest.fixture
def make(build_package: Callable[..., Any]) -> Callable[..., Any]:
    """A package made with the prompt as it is now, and its evaluation."""

    def made(adapter: str, quality: list[float], first: int = 0) -> Any:
        built = build_package(adapter, rows(quality, first), PROMPTS)
        write_scores(built.evaluation, built.digest, quality)
        return built

    return made


@pytest.fixture
def release(registry: LocalRegistry, make: Callable[..., Any]) -> Callable[..., str]:
    """Make a package and publish it."""

    def publish(adapter: str, quality: list[float], first: int = 0) -> str:
        built = make(adapter, quality, first)
        return registry.publish(built.package, built.base, built.evaluation)

    return publish


def version(name: str, registry: LocalRegistry) -> PromptVersion:
    return find_prompt(name, registry, Path())


def diff(a: str, b: str, registry: LocalRegistry) -> str:
    return describe_difference(version(a, registry), version(b, registry), registry)


def metric_cells(text: str, name: str) -> list[str]:
    """The cells of a metric's line: A, B, B - A."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {name} "))
    return [cell.strip() for cell in line.split("|")[2:5]]


def test_the_rendered_difference_and_both_versions_are_shown(
    registry: LocalRegistry, release: Callable[..., str]
) -> None:
    digest = release("one", QUALITY)
    registry.swap(PRODUCTION, digest, None, "first")
    old = PromptSource.read(PROMPTS).digest
    write_text(PROMPTS / "system.txt", "Be kind.\n")
    new = PromptSource.read(PROMPTS).digest
    lines = diff("production", ".", registry).splitlines()
    assert lines[0].startswith(f"A: {old[:12]}, production, package {digest[:12]}")
    assert lines[1].startswith(f"B: {new[:12]}, data/prompts")
    assert "They differ in system.txt. The model reads:" in lines
    assert [line for line in lines if line[:1] in "+-" and line[1:2] != line[:1]] == ["-Be brief.", "+Be kind."]


def test_one_change_of_the_template_shows_wherever_it_is_read(registry: LocalRegistry, tmp_path: Path) -> None:
    shutil.copytree(PROMPTS, tmp_path / "old")
    template = PROMPTS / "chat.jinja"
    write_text(
        template, template.read_text(encoding="utf-8").replace('~ message.role ~ "\\n"', '~ message.role ~ ": "')
    )
    lines = diff(str(tmp_path / "old"), ".", registry).splitlines()
    assert "They differ in chat.jinja. The model reads:" in lines
    assert {
        '+<|im_start|>tool: {"result": "WHAT THE TOOL GAVE"}<|im_end|>',
        "+<|im_start|>system: Be brief.",
    } <= set(lines)
    assert len([line for line in lines if line.startswith("-<|im_start|>")]) == 6  # all but the turn to generate


def test_a_template_that_says_the_same_in_other_ways_is_no_difference_to_the_model(
    registry: LocalRegistry, tmp_path: Path
) -> None:
    shutil.copytree(PROMPTS, tmp_path / "old")
    template = PROMPTS / "chat.jinja"
    write_text(template, "{#- Another comment. -#}\n" + template.read_text(encoding="utf-8"))
    assert "They differ in chat.jinja, but the model reads the same text." in diff(str(tmp_path / "old"), ".", registry)


def test_the_same_prompt_is_reported_as_the_same(registry: LocalRegistry) -> None:
    assert "The two are the same prompt." in diff(".", str(PROMPTS), registry)


def test_a_missing_line_break_at_the_end_is_a_difference() -> None:
    assert unified("a\nb\n", "a\nb") == [
        "--- A",
        "+++ B",
        "@@ -1,2 +1,2 @@",
        " a",
        "-b",
        "+b",
        "\\ No newline at the end",
    ]
    assert unified("a\x0bb\n", "a b\n")[-2:] == ["-a\x0bb", "+a b"]


def test_tokens_are_counted_where_there_is_a_tokenizer(registry: LocalRegistry) -> None:
    assert render(version(".", registry)).tokens is None
    (BUILD / "base").mkdir(parents=True)
    make_tokenizer().save(str(BUILD / "base/tokenizer.json"))
    before = render(version(".", registry)).tokens
    assert before
    write_text(PROMPTS / "system.txt", "Be brief.!!")  # one token per byte
    assert render(version(".", registry)).tokens == before + 2
    assert f"{before + 2} tokens" in describe(version(".", registry))
    write_text(PROMPTS / "system.txt", "Say <|im_end|> last.")
    assert "Say < |im_end|> last." in render(version(".", registry)).text


def test_a_template_that_does_not_render_is_named(registry: LocalRegistry) -> None:
    write_text(PROMPTS / "chat.jinja", "{{ unknown.name }}")
    with pytest.raises(GraftError, match=r"data/prompts: chat.jinja: cannot render"):
        describe(version(".", registry))


def test_a_prompt_without_an_evaluation_is_reported(registry: LocalRegistry, release: Callable[..., str]) -> None:
    digest = release("one", QUALITY)
    write_text(PROMPTS / "system.txt", "Be kind.")
    text = diff(digest[:8], ".", registry)
    assert f"A: package {digest[:12]}, 40 rows" in text
    assert "B: not evaluated yet; run `graft run`" in text
    assert metric_cells(text, "quality") == ["0.500", "-", "-"]
    assert "| quality" not in diff(".", ".", registry)


def test_evaluations_of_the_same_rows_are_compared_row_by_row(
    registry: LocalRegistry, release: Callable[..., str]
) -> None:
    old = release("one", QUALITY)
    write_text(PROMPTS / "system.txt", "Be kind.")
    new = release("two", [min(1.0, value + 0.25) for value in QUALITY])
    text = diff(old, new, registry)
    assert metric_cells(text, "quality")[:2] == ["0.500", "0.688"]
    difference = compare(rows_of(registry, old), rows_of(registry, new), GATE)["quality"]
    assert difference[0] == pytest.approx(0.1875)
    assert 0.0 < difference[1] < 0.1875 < difference[2] < 0.25
    assert metric_cells(text, "quality")[2] == "{:+.3f} ({:+.3f} to {:+.3f})".format(*difference)
    assert metric_cells(text, "tool_call_match")[2] == "+0.000 (+0.000 to +0.000)"  # of the rows that want a tool
    assert "The packages are the same in all but the prompt: base, data," in text


def rows_of(registry: LocalRegistry, digest: str) -> pd.DataFrame:
    table = pd.read_parquet(registry.evaluation(digest) / "rows.parquet")
    return table[table["system"] == "candidate"].set_index("id").sort_index()


def test_evaluations_of_other_rows_are_not_compared(registry: LocalRegistry, release: Callable[..., str]) -> None:
    old, new = release("one", QUALITY), release("two", QUALITY, first=1)
    text = diff(old, new, registry)
    assert "They were evaluated on different rows, so they are not compared by row." in text
    assert metric_cells(text, "quality") == ["0.500", "0.500", "-"]


def test_rows_that_expect_something_else_are_other_rows() -> None:
    table = rows(QUALITY).query("system == 'candidate'").set_index("id")
    assert compare(table, table, GATE)["quality"] == (0.0, 0.0, 0.0)
    assert compare(table, table.assign(expected="something else"), GATE) == {}


def test_packages_that_differ_in_more_than_the_prompt_are_reported(
    registry: LocalRegistry, make: Callable[..., Any]
) -> None:
    digests = []
    for adapter, params in (("one", {"rank": 8}), ("two", {"rank": 16})):
        built = make(adapter, QUALITY)
        manifest = read_manifest(built.package).model_copy(update={"params": params})
        write_json(built.package / MANIFEST, manifest.model_dump(mode="json"))
        digests.append(registry.publish(built.package, built.base, built.evaluation))
    for digest in digests:
        write_scores(registry.evaluation(digest), digest, QUALITY)
    assert "The packages differ in more than the prompt: params." in diff(*digests, registry)


def test_the_working_tree_has_what_is_built_with_its_prompt(registry: LocalRegistry, make: Callable[..., Any]) -> None:
    built = make("one", QUALITY)
    shutil.copytree(built.package, BUILD / "package")
    shutil.copytree(built.evaluation, BUILD / "evaluation")
    assert f"B: package {built.digest[:12]}, 40 rows" in diff(".", ".", registry)
    write_scores(BUILD / "evaluation", "0" * 64, QUALITY)  # of another package: it was packaged again since
    assert "B: not evaluated yet" in diff(".", ".", registry)
    write_scores(BUILD / "evaluation", built.digest, QUALITY)
    write_text(PROMPTS / "system.txt", "Be kind.")
    assert "B: not evaluated yet" in diff(".", ".", registry)


def test_of_packages_with_the_same_prompt_the_one_evaluated_last_counts(
    registry: LocalRegistry, release: Callable[..., str]
) -> None:
    old, new = release("one", QUALITY), release("two", [1.0] * 4)
    os.utime(registry.evaluation(old), (1.0, 1.0))
    assert f"A: package {new[:12]}, 4 rows" in diff(".", ".", registry)
    assert f"A: package {old[:12]}, 40 rows" in diff(old, ".", registry)  # but a package that is named has its own
    (registry.evaluation(old) / "scores.json").unlink()
    assert "A: not evaluated yet" in diff(old, ".", registry)


def test_totals_that_cannot_be_read_are_one_clear_error(registry: LocalRegistry, release: Callable[..., str]) -> None:
    digest = release("one", QUALITY)
    write_json(registry.evaluation(digest) / "scores.json", {"systems": {}})
    with pytest.raises(GraftError, match=r"scores.json: no totals of the candidate"):
        diff(digest, ".", registry)


@pytest.mark.parametrize("table", [None, rows(QUALITY).drop(columns="expected")])
def test_rows_that_cannot_be_read_are_one_clear_error(
    registry: LocalRegistry, release: Callable[..., str], table: pd.DataFrame | None
) -> None:
    old, new = release("one", QUALITY), release("two", QUALITY)
    path = registry.evaluation(new) / "rows.parquet"
    path.unlink() if table is None else table.to_parquet(path)
    with pytest.raises(GraftError, match=r"rows.parquet: not the rows of an evaluation"):
        diff(old, new, registry)
