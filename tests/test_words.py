"""The words of the repository: the field's own terms, American spelling, and no sentence with a free "what" as subject.

The table of words is `tests/data/words.yaml`; its exemptions are names that other versions, clients or
files on disk know. `python -m tests.test_words`, which `make lint` runs, prints every finding, and counts by
folder and by word; its exit status is 1 if there is any.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch, fnmatchcase
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.code_structure import fail_if, read, write_tree

ROOT = Path(__file__).parent.parent
TABLE: dict[str, Any] = yaml.safe_load(read(ROOT / "tests/data/words.yaml"))
WORDS = {tuple(entry.split()): use for entry, use in (TABLE["words"] | TABLE["british"]).items()}
CHECKED = ("*.md", "*.py", "*.yaml", "*.yml", "Makefile", "pyproject.toml", "CODEOWNERS")
LEFT_OUT = ("data/*", "tests/data/*", "docs/log.md", "docs/reference/renames-0.2.md")

WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
WITHIN_A_PHRASE = re.compile(r"[\s_#-]*")
COMMENT = re.compile(r"(?:^|\s)#+(?: (.*)|$)")
CODE_BLOCK = re.compile(r"^( *```).*?^\1", re.DOTALL | re.MULTILINE)
# A sentence begins a text, a paragraph, a heading, an item or a cell of a table, or follows the end of another.
BEGIN = r"(?:^|\n[ \t]*\n|\n(?=[ \t]*(?:[-*>|#]|\d+\.)[ *#>|-])|\||[.!?][\"')*`]*\s)[\s*#>|-]*(?:\d+\. )?\**"
OPENING = re.compile(
    rf"{BEGIN}({'|'.join(TABLE['sentences'])})\s(?=(?:(?![.!?](?:\W|$)|\n[ \t]*\n|\|).)*([.!?]?))", re.DOTALL
)


@dataclass(frozen=True, order=True)
class Finding:
    """A word where it may not stand, and the one to use instead."""

    path: str
    line: int
    word: str
    use: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.word} -> use {self.use}"


@dataclass(frozen=True)
class Exemption:
    """A `text` that may stay in `files`, with no part of a word around it; or a `word`, in any identifier there."""

    files: str
    text: str = ""
    word: str = ""

    def covers(self, content: str, word: str, start: int, end: int) -> bool:
        """Whether the word from `start` to `end` is the exempted one, or lies in the exempted text."""
        if self.word:
            return self.word == word
        begin = r"(?<![\w-])" if re.match(r"\w", self.text) else ""
        close = r"(?![\w-])" if re.search(r"\w$", self.text) else ""
        reach = max(0, start - len(self.text)), end + len(self.text)
        places = re.compile(begin + re.escape(self.text) + close).finditer(content, *reach)
        return any(place.start() <= start and end <= place.end() for place in places)


EXEMPTIONS = [Exemption(**one) for one in TABLE["exempt"]]
STANDARD = [Exemption("*", term) for term in TABLE["standard"]]


@cache
def entries(word: str) -> list[tuple[str, ...]]:
    """The entries of the table that may begin with a word."""
    return [entry for entry in WORDS if fnmatchcase(word, entry[0])]


def word_findings(path: str, content: str) -> Iterator[tuple[Finding, int, int]]:
    """The table's words in a text, each with where it starts and ends."""
    found = list(WORD.finditer(content))
    for at, match in enumerate(found):
        for entry in entries(match[0].lower()):
            phrase = found[at : at + len(entry)]
            words = [one[0].lower() for one in phrase]
            together = all(WITHIN_A_PHRASE.fullmatch(content, a.end(), b.start()) for a, b in pairwise(phrase))
            if together and len(phrase) == len(entry) and all(map(fnmatchcase, words, entry)):
                line = content.count("\n", 0, match.start()) + 1
                yield Finding(path, line, " ".join(words), WORDS[entry]), match.start(), phrase[-1].end()


def type_findings(path: str, content: str) -> Iterator[Finding]:
    """Classes, and aliases at a module's top level, whose whole name is in the table."""
    tree = ast.parse(content)
    named = [(node.lineno, node.name) for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        named += [(node.lineno, target.id) for target in targets if isinstance(target, ast.Name)]
    for line, name in named:
        if (public := name.lstrip("_")) in TABLE["types"]:
            yield Finding(path, line, f"type {name}", TABLE["types"][public])


def sentence_findings(path: str, content: str) -> Iterator[Finding]:
    """Sentences that begin with a word of the table and are no questions."""
    for line, text in prose(path, content):
        upper = text[:1].upper() + text[1:]  # a comment at a line's end may begin in lower case
        for match in OPENING.finditer(upper):
            if match[2] != "?":
                at = line + upper.count("\n", 0, match.start(1))
                yield Finding(path, at, f"a sentence begins with {match[1]}", TABLE["sentences"][match[1]])


def prose(path: str, content: str) -> Iterator[tuple[int, str]]:
    """The text of a Markdown file, or the comments and docstrings of another, each with its first line."""
    if path.endswith(".md"):
        yield 1, CODE_BLOCK.sub(lambda block: "\n" * block[0].count("\n"), content)
        return
    lines = content.splitlines()
    if path.endswith(".py"):
        expressions = [node.value for node in ast.walk(ast.parse(content)) if isinstance(node, ast.Expr)]
        strings = [node for node in expressions if isinstance(node, ast.Constant) and isinstance(node.value, str)]
        yield from ((node.lineno, str(node.value)) for node in strings)
        tokens = tokenize.generate_tokens(io.StringIO(content).readline)
        comments = [(one.start[0], one.string.lstrip("#! ")) for one in tokens if one.type == tokenize.COMMENT]
    else:
        matches = ((number, COMMENT.search(line)) for number, line in enumerate(lines, 1))
        comments = [(number, match[1] or "") for number, match in matches if match]
    yield from joined((number, text, lines[number - 1].lstrip().startswith("#")) for number, text in comments)


def joined(comments: Iterable[tuple[int, str, bool]]) -> Iterator[tuple[int, str]]:
    """Line, text and whether it has the line to itself, of each comment; those directly below one go on from it."""
    begun, text, last = 0, "", -1
    for line, comment, alone in comments:
        if alone and line == last + 1:
            text += "\n" + comment
        else:
            yield begun, text
            begun, text = line, comment
        last = line if alone else -1
    yield begun, text


def findings(root: Path, paths: list[str], exemptions: list[Exemption]) -> tuple[list[Finding], set[Exemption]]:
    """The findings in files, and the exemptions without which there would be more."""
    found, used = [], set()
    for path in paths:
        content = read(root / path)
        here = [one for one in (*exemptions, *STANDARD) if fnmatch(path, one.files)]
        for finding, start, end in word_findings(path, content):
            reasons = [one for one in here if one.covers(content, finding.word, start, end)]
            used.update(reasons)
            if not reasons and path not in TABLE["customer_files"]:
                found.append(finding)
        found += sentence_findings(path, content)
        found += type_findings(path, content) if path.endswith(".py") else []
    return sorted(found), used


def checked_files(root: Path) -> list[str]:
    listing = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True, check=True)
    paths = [path for path in listing.stdout.splitlines() if (root / path).is_file()]
    wanted = [path for path in paths if any(fnmatch(path.rpartition("/")[2], kind) for kind in CHECKED)]
    return [path for path in wanted if not any(fnmatch(path, out) for out in LEFT_OUT)]


def test_every_word_is_the_fields_own() -> None:
    found, _ = findings(ROOT, checked_files(ROOT), EXEMPTIONS)
    fail_if([str(finding) for finding in found], "tests/data/words.yaml has other words for these:")


def test_no_exemption_is_idle() -> None:
    _, used = findings(ROOT, checked_files(ROOT), EXEMPTIONS)
    fail_if([str(one) for one in EXEMPTIONS if one not in used], "nothing needs these lines of tests/data/words.yaml:")


SAMPLES = [re.sub(r"\[\w+\]", "e", " ".join(entry)).replace("*", "") for entry in WORDS]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("docs/page.md", "Text with {words}, here."),
        ("README.md", "- **{title}**: `not_{snake}`"),
        ("code.py", "# About {words}."),
        ("text.py", 'SENTENCE = "of {words}!"'),
        ("names.py", "a_{snake}_b = 1"),
        ("classes.py", "class Of{camel}2: ..."),
        ("settings.yaml", "{snake}: 1  # a number"),
        ("Makefile", "# {words}"),
    ],
)
def test_each_word_is_found_wherever_it_stands(tmp_path: Path, name: str, line: str) -> None:
    forms = [
        {"words": one, "title": one.title(), "snake": one.replace(" ", "_"), "camel": one.title().replace(" ", "")}
        for one in SAMPLES
    ]
    write_tree(tmp_path, {name: "".join(line.format(**form) + "\n" for form in forms)})
    found, _ = findings(tmp_path, [name], [])
    assert {finding.line for finding in found} == set(range(1, len(SAMPLES) + 1))


def test_a_phrase_is_found_across_lines_and_not_across_sentences(tmp_path: Path) -> None:
    first, second = next(words for words in SAMPLES if " " in words).split()
    comments = f"# It was {first}\n# {second} there.\n\n# It was {first}. {second.title()} it is.\n"
    write_tree(tmp_path, {"a.py": comments})
    found, _ = findings(tmp_path, ["a.py"], [])
    assert [(finding.line, finding.word) for finding in found] == [(1, f"{first} {second}")]


@pytest.mark.parametrize("name", TABLE["types"])
def test_a_participle_is_found_as_a_type_and_not_as_a_variable(tmp_path: Path, name: str) -> None:
    plain = f"{name.lower()} = 1\nclass {name}Row: ...\ndef f():\n    {name} = 2\n    return {name}\n"
    write_tree(tmp_path, {"a.py": f"{plain}class {name}: ...\n_{name} = int | str\n{name}: TypeAlias = int\n"})
    found, _ = findings(tmp_path, ["a.py"], [])
    assert [(finding.line, finding.word.split()[-1]) for finding in found] == [(6, name), (7, f"_{name}"), (8, name)]


@pytest.mark.parametrize("word", TABLE["sentences"])
def test_a_sentence_with_a_free_subject_is_found_and_a_question_is_not(tmp_path: Path, word: str) -> None:
    lower = word.lower()
    code = (
        f'"""{word} asks, by name.\n\nA line. {word} `a.b`\nasks? {word}\nanswers.\n"""\n'
        f"# {word} is it?\nA = 1  # {lower} counts\n# Of {lower} is\n# known. {word} is not.\nB = '{word} is it.'\n"
    )
    page = f"# {word} it is\n\n- {word} it does\n| cell | {word} it has |\n```\n{word} it runs.\n```\n{lower}\n"
    write_tree(tmp_path, {"a.py": code, "a.md": page, "a.yaml": f"a: 1  # {lower} counts\n# {word}? No.\n"})
    found, _ = findings(tmp_path, ["a.md", "a.py", "a.yaml"], [])
    lines = [(finding.path, finding.line) for finding in found if finding.word.endswith(f" {word}")]
    assert lines == [*(("a.md", n) for n in (1, 3, 4)), *(("a.py", n) for n in (1, 4, 8, 10)), ("a.yaml", 1)]


def test_an_exempted_name_is_no_finding_and_its_neighbors_are(tmp_path: Path) -> None:
    word = SAMPLES[0]
    key = f'row["{word}"]\n'
    write_tree(tmp_path, {"a.py": f"{key}row.{word}\n{word} = 1\nof_{word} = 2\n", "b.py": key})

    def lines(**exemption: str) -> list[tuple[str, int]]:
        found, used = findings(tmp_path, ["a.py", "b.py"], [Exemption(**exemption)])
        assert used == {Exemption(**exemption)}
        return [(finding.path, finding.line) for finding in found]

    assert lines(files="a.py", text=f'"{word}"') == [("a.py", 2), ("a.py", 3), ("a.py", 4), ("b.py", 1)]
    assert lines(files="*.py", text=f"row.{word}") == [("a.py", 1), ("a.py", 3), ("a.py", 4), ("b.py", 1)]
    assert lines(files="a.py", text=word) == [("a.py", 4), ("b.py", 1)]
    assert lines(files="a.py", word=word) == [("b.py", 1)]


def main(root: Path) -> bool:
    """Print the findings, with the word to use instead; returns whether there are any."""
    found, _ = findings(root, checked_files(root), EXEMPTIONS)
    folders = Counter("/".join(finding.path.split("/")[:-1][:2]) or "." for finding in found)
    for finding in found:
        print(finding)
    for name, counts in (("folder", folders), ("word", Counter(finding.word for finding in found))):
        if counts:
            print(f"\nby {name}:", *(f"{count:5} {key}" for key, count in counts.most_common()), sep="\n")
    print(f"words: {len(found)} findings")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT))
