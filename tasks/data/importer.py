"""Importer of conversations (`graft data add FILE`): adds a file's rows to `data/raw` after a contract check.

The importer reads, drafts and checks in memory first; it changes the data directory only when
the contract holds. With `replace` the file becomes the whole data set and gets its own contract
and prompt; the previous data set is kept under `.graft/replaced/`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import yaml
from tokenizers import Tokenizer

from tasks.core.errors import GraftError
from tasks.core.files import write_bytes, write_text
from tasks.core.paths import (
    BUILT_BASE,
    CONTRACT,
    EVAL_QUERIES,
    EXPECTED_OUTCOMES,
    KNOWLEDGE,
    PROMPTS,
    QUERY_EXPANSIONS,
    RAW,
    STATE,
)
from tasks.core.records import ChatRow, Message, dump_messages
from tasks.core.settings import check, load_settings
from tasks.data import row_checks
from tasks.data.contract_check import ContractResult, broken_message, check_contract
from tasks.data.contract_draft import behavior_of, draft_contract, draft_tools
from tasks.data.contract_report import text_table
from tasks.data.contract_spec import ContractSpec, load_contract
from tasks.data.file_formats import ImportFile, read_import
from tasks.data.raw_rows import RawLine, name_lines, read_folder
from tasks.prompt.encoding import Prompt
from tasks.prompt.template import FILES, PromptSource
from tasks.text.language import main_language

REPLACED = STATE / "replaced"
KNOWLEDGE_FILES = (QUERY_EXPANSIONS, EVAL_QUERIES, EXPECTED_OUTCOMES)
"""Files that refer to sections of the articles; a replacement empties them, as it removes the articles."""
KEPT_FOLDER = ".gitkeep"
"""The file that keeps a folder without documents in git, because the stage `index` needs the folder."""
SAMPLE_ROWS = 50
"""The number of shortest and of longest rows whose tokens are counted for a draft."""
SAMPLE_CHARS = 20_000
"""The length of the text, in characters, by which a draft identifies the language."""


@dataclass(frozen=True)
class ImportResult:
    """The result of an import."""

    path: Path
    """The file that was written."""
    rows: int
    """The number of rows in it."""
    warnings: str
    """The table of the contract's warnings; empty without any."""
    replaced: Path | None
    """The folder with the previous data set, or None if the file was added to it."""

    def describe(self) -> str:
        """The result and the next steps, for a person."""
        parts = [f"data: {self.path} written, {self.rows} rows; the contract holds"]
        if self.warnings:
            parts.append(f"warnings:\n{self.warnings}")
        if self.replaced:
            parts += [
                f"The previous data, contract, prompt and articles are in {self.replaced}.",
                f"Now edit {CONTRACT} (owner, license, source) and {PROMPTS / FILES[0]}; params.yaml (package) "
                f"still describes the previous assistant. Put the documents that it answers from into {KNOWLEDGE}.",
            ]
        return "\n".join(parts)


@dataclass(frozen=True)
class ImportPlan:
    """The plan of an import: the files to write, and the inputs of the contract check."""

    texts: dict[Path, str]
    """The texts of the files to write, by path."""
    lines: tuple[RawLine, ...]
    """The raw lines of the whole data set after the import."""
    spec: ContractSpec
    """The data contract that they must keep."""
    prompt: Prompt
    """The prompt that counts tokens and declares tools."""


def add(
    file: Path,
    *,
    input_column: str | None = None,
    target_column: str | None = None,
    system: str | None = None,
    replace: bool = False,
) -> ImportResult:
    """Add a file's rows to `data/raw`, or with `replace` make them the whole data set.

    Args:
        file: chat JSONL (OpenAI's fine-tuning format), or CSV.
        input_column: the CSV's column of user turns.
        target_column: the CSV's column of answers; short answers that recur are the labels too.
        system: the system text, as a turn of each row, or with `replace` as the assistant's.
        replace: move the present data set to `.graft/replaced/`, and draft a contract and a prompt.

    Raises:
        GraftError: the file cannot be read, or breaks an `error` rule; the data directory is as before.
    """
    tokenizer = _tokenizer()
    settings = load_settings().contract
    import_file = read_import(file, input_column, target_column)
    print(import_file.describe(), flush=True)
    target = RAW / f"{re.sub(r'[^A-Za-z0-9_-]+', '-', file.stem).strip('-') or 'data'}.jsonl"
    today = date.today()
    if replace:
        plan = plan_replacement(import_file, target, system, target_column, tokenizer, today)
    else:
        plan = plan_addition(import_file, target, system, tokenizer)
    result = check_contract(plan.lines, plan.spec, plan.prompt, settings, today)
    if result.broken:
        table = broken_message(result, settings.shown_violations)
        hint = "" if replace else "\nTo make this file the whole data set instead of adding it, use --replace."
        raise GraftError(f"{file}: not added, nothing was changed: {table}{hint}")
    backup = replace_data(plan.texts, _new_backup()) if replace else None
    if not replace:
        write_text(target, plan.texts[target])
    return ImportResult(target, len(import_file.rows), _warnings(result, settings.shown_violations), backup)


def _warnings(result: ContractResult, shown: int) -> str:
    return text_table(result.warnings, shown) if result.warnings else ""


def _tokenizer() -> Tokenizer:
    path = BUILT_BASE / "tokenizer.json"
    if not path.is_file():
        raise GraftError(
            f"{path}: the base model's tokenizer is missing, and the length of rows is measured in its tokens; "
            "run `graft run` or `dvc repro base` first"
        )
    return Tokenizer.from_file(str(path))


def plan_addition(import_file: ImportFile, target: Path, system: str | None, tokenizer: Tokenizer) -> ImportPlan:
    """The plan to add the file to `data/raw` under the present contract.

    Args:
        import_file: the file that was read.
        target: the path in `data/raw` to write.
        system: a system text that becomes a turn of each row, or None.
        tokenizer: the base model's tokenizer.

    Raises:
        GraftError: a file of that name exists, or rows have system turns in addition to `system`.
    """
    if target.exists():
        raise GraftError(f"{target}: already there; rename your file, or remove the existing one first")
    if system:
        _refuse_two_systems(import_file)
        turn = Message(role="system", content=system)
        with_turn = [row.model_copy(update={"messages": (turn, *row.messages)}) for row in import_file.rows]
        import_file = import_file.with_rows(with_turn)
    existing_lines = read_folder(RAW) if any(RAW.glob("*.jsonl")) else []
    lines = name_lines([*existing_lines, *import_file.lines])
    prompt = Prompt(PromptSource.read(PROMPTS), tokenizer)
    return ImportPlan({target: to_jsonl(import_file.rows)}, tuple(lines), load_contract(CONTRACT), prompt)


def plan_replacement(
    import_file: ImportFile,
    target: Path,
    system: str | None,
    target_column: str | None,
    tokenizer: Tokenizer,
    today: date,
) -> ImportPlan:
    """The plan to make the file the whole data set, with a contract, system text and tools drafted from it.

    A system turn that all rows share becomes the system text, so that training and serving use the same one.

    Args:
        import_file: the file that was read.
        target: the path in `data/raw` to write.
        system: the assistant's system text, or None for that of the rows or a default.
        target_column: the CSV's column of answers, for the default system text.
        tokenizer: the base model's tokenizer.
        today: the date on which the data count as updated.

    Raises:
        GraftError: no row can be trained on, or rows have system turns in addition to `system`.
    """
    import_file = _label_by_behavior(import_file)
    shared = _shared_system(import_file.rows)
    if system:
        _refuse_two_systems(import_file)
    elif shared:
        import_file = import_file.with_rows(
            [row.model_copy(update={"messages": row.messages[1:]}) for row in import_file.rows]
        )
    text = system or shared or _default_system(import_file, target_column)
    tools = draft_tools(import_file.rows, import_file.tools)
    source = PromptSource(text.strip(), tuple(tools), (PROMPTS / FILES[2]).read_text(encoding="utf-8"))
    prompt = Prompt(source, tokenizer)
    user_text = " ".join(m.content for row in import_file.rows for m in row.messages if m.role == "user")
    language = main_language(user_text[:SAMPLE_CHARS])
    contract = draft_contract(
        import_file.rows, _token_counts(import_file, prompt), language, import_file.file.name, today
    )
    texts = {
        CONTRACT: contract,
        PROMPTS / FILES[0]: f"{source.system}\n",
        PROMPTS / FILES[1]: json.dumps(tools, indent=2, ensure_ascii=False) + "\n",
        target: to_jsonl(import_file.rows),
    }
    spec = check(ContractSpec, yaml.safe_load(contract), f"the drafted {CONTRACT}")
    return ImportPlan(texts, import_file.lines, spec, prompt)


def _label_by_behavior(import_file: ImportFile) -> ImportFile:
    """The file with a label for each row: a row without one is labeled by its behavior (answer, tool or refusal)."""
    rows = [row if row.label else row.model_copy(update={"label": behavior_of(row)}) for row in import_file.rows]
    return import_file.with_rows(rows)


def _shared_system(rows: Sequence[ChatRow]) -> str:
    """The system text that every row opens with, or an empty text."""
    openings = {row.messages[0].content if row.messages and row.messages[0].role == "system" else "" for row in rows}
    return openings.pop() if len(openings) == 1 else ""


def _refuse_two_systems(import_file: ImportFile) -> None:
    for line in import_file.lines:
        if line.row and line.row.messages and line.row.messages[0].role == "system":
            raise GraftError(f"{line.source}: the row brings its own system turn; omit --system, or remove that turn")


def _default_system(import_file: ImportFile, target_column: str | None) -> str:
    if import_file.kind == "CSV" and all(row.label == row.messages[-1].content for row in import_file.rows):
        return f"Read the message and answer with its {target_column} only."
    return "You are a helpful assistant. Answer briefly."


def _token_counts(import_file: ImportFile, prompt: Prompt) -> list[int]:
    """Token counts of the shortest and the longest trainable rows.

    Raises:
        GraftError: no row can be trained on.
    """
    rows = [row for row in import_file.rows if not (row_checks.role_order(row) or row_checks.last_turn(row))]
    if not rows:
        fault = next(
            (f"{line.source}: {line.fault}" for line in import_file.lines if line.fault), "see its first row above"
        )
        raise GraftError(f"{import_file.file}: no row can be trained on, and nothing was changed ({fault})")
    rows.sort(key=lambda row: sum(len(text) for _, text in row_checks.texts(row.messages)))
    sampled_rows = rows if len(rows) <= 2 * SAMPLE_ROWS else rows[:SAMPLE_ROWS] + rows[-SAMPLE_ROWS:]
    return [len(prompt.encode_training(row.messages)[0]) for row in sampled_rows]


def to_jsonl(rows: Sequence[ChatRow]) -> str:
    """Rows in the format of `data/raw`; a group that equals the row's id is left out."""
    lines = []
    for row in rows:
        group = {"group": row.group} if row.group not in ("", row.id) else {}
        fields = {"id": row.id, "label": row.label, **group, "messages": json.loads(dump_messages(row.messages))}
        lines.append(json.dumps(fields, ensure_ascii=False) + "\n")
    return "".join(lines)


def _new_backup() -> Path:
    return REPLACED / datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")


def replace_data(texts: Mapping[Path, str], backup: Path) -> Path:
    """Copy the present data set into `backup`, then write the new one; return `backup`.

    The knowledge of the old assistant is removed with its data: its articles are deleted, and the files that
    refer to them are emptied. The copy comes first and removal last, so that a kill at any moment loses no data.

    Raises:
        GraftError: a file cannot be written; the old files are restored.
    """
    removed_files = [path for path in (*sorted(RAW.glob("*.jsonl")), *sorted(KNOWLEDGE.rglob("*"))) if path.is_file()]
    texts = {**texts, **dict.fromkeys((path for path in KNOWLEDGE_FILES if path.is_file()), "")}
    changed = (CONTRACT, *(PROMPTS / name for name in FILES), *KNOWLEDGE_FILES)
    old_files = [*removed_files, *(path for path in changed if path.is_file())]
    for path in old_files:
        write_bytes(backup / path, path.read_bytes())
    try:
        for path, text in texts.items():
            write_text(path, text)
        for path in removed_files:
            if path not in texts and path.name != KEPT_FOLDER:
                path.unlink()
    except BaseException as error:
        for path in texts.keys() - set(old_files):
            if path.is_file():
                path.unlink()
        for path in old_files:
            write_bytes(path, (backup / path).read_bytes())
        if isinstance(error, OSError):
            raise GraftError(
                f"{error.filename}: cannot be written ({error.strerror}); everything is as before"
            ) from error
        raise
    return backup
