"""Every `graft` command, option and file that a page of docs/ or the README names exists."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import typer.main

from flows.cli import app
from tests.support.code_structure import fail_if
from tests.support.doc_pages import blocks, code_spans, session

ROOT = Path(__file__).parent.parent
# They name what there was.
HISTORY = ("docs/log.md", "docs/reference/renames-0.2.md")
PAGES = sorted(
    path
    for path in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"))
    if path.relative_to(ROOT).as_posix() not in HISTORY
)
SHELLS = ("", "sh", "bash", "console")
_GRAFT = re.compile(r"^(?:\$ )?(?:\.venv/bin/|\$\(BIN\)/)?graft(?P<rest>(?: .*)?)$")
_PATH = re.compile(r"(?:tasks|deployments|flows|data|tests|benchmarks)/[\w./*{},-]*(?:::\w+)?")
_PLACEHOLDER = re.compile(r"[A-Z][A-Z0-9_]*(?![a-z])")


def shell_lines(page: Path) -> Iterator[tuple[int, str]]:
    """The lines of a page's shell blocks, and its code spans, with the line of the block or span."""
    for block in blocks(page):
        if block.kind == "console":
            yield from ((block.line, _joined(command.text)) for command in session(block.text)[1])
        elif block.kind in SHELLS:
            yield from ((block.line, line) for line in _joined(block.text).splitlines())
    yield from code_spans(page)


def _joined(text: str) -> str:
    """A shell's text with the lines that a backslash continues on one line."""
    return re.sub(r"\\\n\s*", "", text)


@cache
def command_line() -> typer.main.click.Command:
    return typer.main.get_command(app)


def unknown_part(rest: str) -> str | None:
    """The first word of a `graft` command line that the command line interface does not know, or None."""
    words = shlex.split(rest, comments=True)
    command, positional = command_line(), 0
    while words:
        word = words.pop(0)
        if word in ("|", "||", "&&", "&", ">", ">>", ";") or word == "2>&1":
            return None
        if word.startswith("-"):
            name, _, value = word.partition("=")
            option = next((one for one in command.params if name in one.opts), None)
            if option is None and name != "--help":
                return word
            if option is not None and not value and not getattr(option, "is_flag", False):
                words = words[1:]
        elif isinstance(getattr(command, "commands", None), dict):
            if word not in command.commands:
                return word
            command = command.commands[word]
        else:
            positional += 1
            if positional > sum(one.param_type_name == "argument" for one in command.params):
                return word
    return None


def wrong_commands(page: Path) -> list[str]:
    found = []
    for line, text in shell_lines(page):
        match = _GRAFT.match(text.strip())
        if match and (part := unknown_part(match["rest"])):
            found.append(f"{page.name}:{line}: {text.strip()}: no {part}")
    return found


def missing_files(page: Path, root: Path = ROOT) -> list[str]:
    """The paths in a page's code spans that do not exist, nor are files of the page; capitals stand for any name."""
    found, own = [], {block.title for block in blocks(page)}
    for line, span in code_spans(page):
        if not _PATH.fullmatch(span) or span in own:
            continue
        path, _, test = span.partition("::")
        places = [sorted(root.glob(one.rstrip("/"))) for one in alternatives(path)]
        if not all(places) or (test and f"def {test}(" not in places[0][0].read_text(encoding="utf-8")):
            found.append(f"{page.name}:{line}: {span}")
    return found


def alternatives(path: str) -> list[str]:
    """The patterns of a path, of which a part may be `{a,b}`."""
    pattern = _PLACEHOLDER.sub("*", path)
    match = re.fullmatch(r"(.*)\{([^{}]*)\}(.*)", pattern)
    return [f"{match[1]}{one}{match[3]}" for one in match[2].split(",")] if match else [pattern]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_that_a_page_names_exists(page: Path) -> None:
    fail_if(wrong_commands(page), "`graft --help` has no such command, argument or option:")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    fail_if(missing_files(page), "no such file or folder:")


@pytest.mark.parametrize(
    ("rest", "part"),
    [
        (" run", None),
        ("", None),
        (" --help", None),
        (" rollback 3f2a19 --reason TEXT", None),
        (" rollback --reason 'two words' | cat", None),
        (" prompt diff A B  # both", None),
        (" data", None),
        (" aprove", "aprove"),
        (" data ad x.csv", "ad"),
        (" run now", "now"),
        (" rollback --because TEXT", "--because"),
        (" prompt diff A B C", "C"),
    ],
)
def test_an_unknown_part_of_a_command_is_found(rest: str, part: str | None) -> None:
    assert unknown_part(rest) == part


def test_wrong_commands_and_missing_files_are_found_where_they_stand(tmp_path: Path) -> None:
    (tmp_path / "tasks/gate").mkdir(parents=True)
    (tmp_path / "tasks/gate/a.py").write_text("def test_it() -> None: ...\n")
    page = tmp_path / "page.md"
    page.write_text(
        "`graft gone`, `graft run`, `tasks/gate/b.py`, `tasks/gate/a.py::test_it`, `tasks/gate/a.py::test_no`\n"
        "```console\n$ graft run \\\n  --fast\ngraft is no command here\n```\n"
        "1. x\n   ```sh\n   graft down now\n   ```\n"
        '```python title="tasks/new.py"\ngraft = 1\n```\n'
        "`tasks/new.py`, `tasks/NAME/*.py`, `tasks/{gate,data}/`, `tasks/none/`, `tasks/gate/{a,c}.py`\n"
    )
    assert wrong_commands(page) == [
        "page.md:2: graft run --fast: no --fast",
        "page.md:8: graft down now: no now",
        "page.md:1: graft gone: no gone",
    ]
    assert missing_files(page, tmp_path) == [
        "page.md:1: tasks/gate/b.py",
        "page.md:1: tasks/gate/a.py::test_no",
        "page.md:14: tasks/{gate,data}/",
        "page.md:14: tasks/none/",
        "page.md:14: tasks/gate/{a,c}.py",
    ]
