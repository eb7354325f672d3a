"""Prompt diff: the difference between two prompts as the model reads them, and between their evaluations.

`graft prompt diff` compares the rendered text and not the files: a template that is written differently and
renders the same text is no difference to the model, and one word in its loop is a difference in many lines.
"""

from __future__ import annotations

import difflib
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tokenizers import Tokenizer

from tasks.core.errors import GraftError
from tasks.core.paths import BUILT_EVALUATION, BUILT_PACKAGE, PROMPTS
from tasks.core.records import Message, ToolCall
from tasks.core.settings import GateSettings, load_settings
from tasks.evaluation.outputs import CANDIDATE
from tasks.gate.bootstrap import interval
from tasks.model_package.manifest import MANIFEST, PROMPT, package_digest, read_manifest
from tasks.prompt.template import PromptSource, Renderer, special_tokens
from tasks.registry.registry import Registry
from tasks.reports.prompt_versions import SHOWN_DIGITS, PromptVersion, published_prompt

EXAMPLE = (
    Message(role="user", content="A CUSTOMER'S QUESTION"),
    Message(role="assistant", tool_calls=(ToolCall(name="A_TOOL", arguments={"argument": "VALUE"}),)),
    Message(role="tool", content='{"result": "WHAT THE TOOL GAVE"}'),
    Message(role="assistant", content="THE ANSWER"),
    Message(role="user", content="ANOTHER QUESTION"),
)
"""The example conversation. It is the same in every domain; all other rendered text comes from the prompt."""

METRICS = ("quality", "tool_call_match", "refusal_correct", "valid_format")
ROWS, SCORES = "rows.parquet", "scores.json"  # of an evaluation
_PAIRED = ["system", "id", "expected", *METRICS]


@dataclass(frozen=True)
class RenderedPrompt:
    """The example conversation, rendered with a prompt."""

    text: str
    """The text that the model reads."""
    tokens: int | None
    """Its length in tokens; None without a tokenizer."""

    @property
    def length(self) -> str:
        """The length as text for a person."""
        return "no tokenizer in build/base yet" if self.tokens is None else f"{self.tokens} tokens in the example"


@dataclass(frozen=True)
class EvaluatedPackage:
    """A package and its evaluation."""

    digest: str
    """Digest of the package."""
    package: Path
    """Folder of the package."""
    evaluation: Path
    """Folder of its evaluation, with `rows.parquet` and `scores.json`."""

    def means(self) -> dict[str, float]:
        """The candidate's mean of each metric, and its number of rows, `n`.

        Raises:
            GraftError: the evaluation's totals cannot be read.
        """
        path = self.evaluation / SCORES
        try:
            means: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))["systems"][CANDIDATE]["all"]
        except (ValueError, KeyError, TypeError) as error:
            raise GraftError(
                f"{path}: no totals of the {CANDIDATE} that this version of Graft can read: {error!r}"
            ) from error
        return means

    def rows(self) -> pd.DataFrame:
        """The candidate's metrics by row id.

        Raises:
            GraftError: the evaluation's rows cannot be read.
        """
        path = self.evaluation / ROWS
        try:
            table = pd.read_parquet(path, columns=_PAIRED)
        except (OSError, ValueError) as error:
            raise GraftError(
                f"{path}: not the rows of an evaluation that this version of Graft can read: {error}"
            ) from error
        return table[table["system"] == CANDIDATE].set_index("id").sort_index()


def render(version: PromptVersion) -> RenderedPrompt:
    """The example conversation with this prompt, up to where the model's turn begins.

    Raises:
        GraftError: the template does not render.
    """
    path = version.base / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path)) if path.is_file() else None
    try:
        text = Renderer(version.source, special_tokens(tokenizer) if tokenizer else {}).render(EXAMPLE, generate=True)
    except GraftError as error:
        raise GraftError(f"{version.origin}: {error}") from error
    return RenderedPrompt(text, len(tokenizer.encode(text, add_special_tokens=False).ids) if tokenizer else None)


def describe(version: PromptVersion) -> str:
    """A prompt's version and the text that the model reads, for a person."""
    rendered = render(version)
    return f"{version}, {rendered.length}\n\n{rendered.text}"


def describe_difference(a: PromptVersion, b: PromptVersion, registry: Registry) -> str:
    """Both versions, the difference of the rendered texts, and both evaluations, as text for a person."""
    rendered_a, rendered_b = render(a), render(b)
    lines = [f"A: {a}, {rendered_a.length}", f"B: {b}, {rendered_b.length}", ""]
    lines += _difference(a.source, b.source, rendered_a, rendered_b)
    evaluations = {"A": find_evaluation(a, registry), "B": find_evaluation(b, registry)}
    return "\n".join([*lines, "", *_evaluations(evaluations, load_settings().gate)])


def _difference(a: PromptSource, b: PromptSource, rendered_a: RenderedPrompt, rendered_b: RenderedPrompt) -> list[str]:
    if a.digest == b.digest and rendered_a.text == rendered_b.text:
        return ["The two are the same prompt."]
    files = {
        "system.txt": (a.system, b.system),
        "tools.json": (a.tools, b.tools),
        "chat.jinja": (a.template, b.template),
    }
    differing = ", ".join(name for name, (one, other) in files.items() if one != other)
    if rendered_a.text == rendered_b.text:
        return [f"They differ in {differing}, but the model reads the same text."]
    return [f"They differ in {differing}. The model reads:", "", *unified(rendered_a.text, rendered_b.text)]


def unified(a: str, b: str) -> list[str]:
    """The unified diff of two texts as lines; a missing line break at the end is marked, as by git."""
    lines: list[str] = []
    # StringIO splits at line feeds alone; `splitlines` would split at other characters too, and hide which.
    for line in difflib.unified_diff(list(io.StringIO(a)), list(io.StringIO(b)), "A", "B"):
        lines += [line[:-1]] if line.endswith("\n") else [line, "\\ No newline at the end"]
    return lines


def find_evaluation(version: PromptVersion, registry: Registry) -> EvaluatedPackage | None:
    """The evaluation of the prompt's package, or the newest one of a package made with this prompt; None without one.

    The package in `build/` counts as newer than published ones.
    """
    if version.package:
        published = [version.package]
    else:
        published = [p for p in registry.packages() if published_prompt(p, registry) == version.source.digest]
    evaluated = [EvaluatedPackage(name, registry.package(name), registry.evaluation(name)) for name in published]
    evaluated.sort(key=lambda e: -e.evaluation.stat().st_mtime if e.evaluation.is_dir() else 0)
    built = [] if version.package else _built(version.source)
    return next((e for e in [*built, *evaluated] if (e.evaluation / SCORES).is_file()), None)


def _built(source: PromptSource) -> list[EvaluatedPackage]:
    """The package in `build/`, if its evaluation belongs to it and its prompt is this one."""
    scores = BUILT_EVALUATION / SCORES
    if not (scores.is_file() and (BUILT_PACKAGE / MANIFEST).is_file()):
        return []
    digest = package_digest(BUILT_PACKAGE)
    if json.loads(scores.read_text(encoding="utf-8")).get("digest") != digest:
        return []
    same = PromptSource.read(BUILT_PACKAGE / PROMPT).digest == source.digest
    return [EvaluatedPackage(digest, BUILT_PACKAGE, BUILT_EVALUATION)] if same else []


def _evaluations(evaluations: dict[str, EvaluatedPackage | None], settings: GateSettings) -> list[str]:
    """The source of each evaluation, then a table with a line for each metric."""
    lines = ["Evaluation:"]
    means: dict[str, dict[str, float]] = {}
    for side, evaluated in evaluations.items():
        if evaluated is None:
            lines.append(f"{side}: not evaluated yet; run `graft run` with it in {PROMPTS}")
            continue
        means[side] = evaluated.means()
        lines.append(f"{side}: package {evaluated.digest[:SHOWN_DIGITS]}, {means[side]['n']} rows")
    if not means:
        return lines
    differences: dict[str, tuple[float, float, float]] = {}
    a, b = evaluations["A"], evaluations["B"]
    if a and b and a.digest == b.digest:
        lines.append("Both evaluations are of the same package.")
    elif a and b:
        differences = compare(a.rows(), b.rows(), settings)
        different_rows = "They were evaluated on different rows, so they are not compared by row."
        lines.append(_other_differences(a, b) if differences else different_rows)
    head = f"B - A ({settings.confidence:.0%} interval)"
    lines += ["", f"| {'':15} |     A |     B | {head:27} |", "| --- | ---: | ---: | --- |"]
    for name in METRICS:
        cells = [f"{means[side][name]:.3f}" if name in means.get(side, {}) else "    -" for side in evaluations]
        cell = "{:+.3f} ({:+.3f} to {:+.3f})".format(*differences[name]) if name in differences else "-"
        lines.append(f"| {name:15} | {' | '.join(cells)} | {cell:27} |")
    return lines


def compare(a: pd.DataFrame, b: pd.DataFrame, settings: GateSettings) -> dict[str, tuple[float, float, float]]:
    """By metric: the mean of b - a over the same rows, and the ends of its bootstrap interval.

    Empty unless both were evaluated on the same rows; a metric that no row has is left out.

    Args:
        a, b: metrics by row id, in the same order, with the column `expected`.
    """
    if not (a.index.equals(b.index) and a["expected"].equals(b["expected"])):
        return {}
    result = {}
    for name in METRICS:
        differences = b[name].to_numpy(dtype=np.float64) - a[name].to_numpy(dtype=np.float64)
        differences = differences[~np.isnan(differences)]  # [rows that have it]
        if len(differences):
            result[name] = (float(differences.mean()), *interval(differences, settings))
    return result


def _other_differences(a: EvaluatedPackage, b: EvaluatedPackage) -> str:
    """The other differences of two packages: a prompt is part of training, so its metrics are those of a package."""
    one, other = read_manifest(a.package), read_manifest(b.package)
    pairs = {
        "base": (one.base.sha256, other.base.sha256),
        "data": (one.data, other.data),
        "params": (one.params, other.params),
        "engine": (one.engine, other.engine),
        "grounding": (one.grounding, other.grounding),
    }
    if differing := [name for name, (left, right) in pairs.items() if left != right]:
        return f"The packages differ in more than the prompt: {', '.join(differing)}."
    return f"The packages are the same in all but the prompt: {', '.join(pairs)}."
