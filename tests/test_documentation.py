"""Documentation of modules, fields and parameters (the first line, `Attributes:`, `Args:`), and the log's index."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.support import code_structure as code
from tests.support.code_structure import fail_if, modules, write_tree

ROOT = Path(__file__).parent.parent
# Whose settings and records people edit, or find on disk: each field is described.
SETTINGS_MODULES = ["tasks/core/settings.py", "deployments/stack/stack_settings.py", "deployments/core/settings.py"]
PERSISTED_MODULES = [
    "tasks/engine/probes.py",
    "tasks/model_package/constraints.py",
    "tasks/model_package/manifest.py",
    "tasks/monitoring/telemetry_row.py",
    "tasks/registry/audit_log.py",
    "tasks/registry/registry.py",
    "tasks/retrieval/chunks.py",
    "tasks/retrieval/embedder.py",
    "tasks/retrieval/index_files.py",
    "tasks/rollout/incidents.py",
    "tasks/rollout/shadow_comparison.py",
    "tasks/safety/injection_classifier.py",
]
MANY_PARAMETERS = 4


def nameless_modules(root: Path) -> list[str]:
    """Modules whose docstring's first line holds neither a word of their path nor a term of the glossary."""
    terms = code.glossary(root)
    found = []
    for path in modules(root):
        first = code.docstring(root, path).partition("\n")[0]
        words = {code.plain(word) for word in re.split(r"[/_.]", path)[1:-1] if len(word) > 2}
        line = f" {code.plain(first)} "
        if not any(f" {word} " in line for word in words | terms):
            found.append(f"{path}: {first}")
    return found


def test_the_first_line_of_a_module_names_its_subject() -> None:
    fail_if(nameless_modules(ROOT), "the first line holds a word of the path, or a term of docs/reference/glossary.md:")


def test_a_first_line_without_a_known_word_is_found(tmp_path: Path) -> None:
    write_tree(
        tmp_path,
        {
            "docs/reference/glossary.md": "# Glossary\n\n- **Token bucket**: ...\n\n| **Canary analyses** | x |\n",
            "tasks/access/rate_limits.py": '"""How often a key may ask."""\n',
            "tasks/access/keys.py": '"""Token buckets, one for each caller."""\n',
            "tasks/access/per_user.py": '"""A user\'s own."""\n',
            "tasks/access/silent.py": "",
            "tasks/rollout/sides.py": '"""The canary-analyses\' rows."""\n',
        },
    )
    assert nameless_modules(tmp_path) == [
        "tasks/access/rate_limits.py: How often a key may ask.",
        "tasks/access/silent.py: ",
    ]


def undescribed_fields(root: Path, paths: list[str]) -> list[str]:
    missing = [path for path in paths if not (root / path).is_file()]
    return [f"{path}: is not there; correct the list in tests/test_documentation.py" for path in missing] + [
        f"{path}: {node.name}.{field}"
        for path in paths
        if path not in missing
        for node in code.record_classes(root, path)
        for field in code.undescribed_fields(node)
    ]


@pytest.mark.parametrize("path", [*SETTINGS_MODULES, *PERSISTED_MODULES])
def test_every_field_of_settings_and_persisted_records_is_described(path: str) -> None:
    fail_if(undescribed_fields(ROOT, [path]), "a string below the field, or a line in the docstring's `Attributes:`:")


def test_a_field_without_a_description_is_found(tmp_path: Path) -> None:
    source = (
        'class Row(Record):\n    a: int\n    """Described."""\n    b: int\n    c: str = ""\n    _private: int\n'
        'class Sub(Row):\n    """Of a row.\n\n    Attributes:\n        d: described.\n    """\n    d: int\n    e: int\n'
        "class Other:\n    f: int\n"
    )
    write_tree(tmp_path, {"tasks/row.py": source})
    assert undescribed_fields(tmp_path, ["tasks/row.py", "tasks/gone.py"]) == [
        "tasks/gone.py: is not there; correct the list in tests/test_documentation.py",
        "tasks/row.py: Row.b",
        "tasks/row.py: Row.c",
        "tasks/row.py: Sub.e",
    ]


def undescribed_parameters(root: Path) -> list[str]:
    """Public functions of many parameters without `Args:`, and `Args:` that name no parameter."""
    found = []
    for path in modules(root):
        for node in code.documented_functions(root, path):
            at = f"{path}:{node.lineno} {node.name}"
            names = code.parameters(node)
            described = code.section_entries(ast.get_docstring(node) or "", "Args")
            if len(names) >= MANY_PARAMETERS and not described:
                found.append(f"{at}: {len(names)} parameters, no `Args:`")
            found += [f"{at}: no parameter {name}" for name in sorted(described - set(names))]
    return found


def test_functions_of_many_parameters_describe_them() -> None:
    fail_if(undescribed_parameters(ROOT), f"from {MANY_PARAMETERS} parameters on, a docstring has `Args:`:")


def test_parameters_without_a_description_are_found(tmp_path: Path) -> None:
    source = (
        'def many(a, b, *, c, d):\n    """Much."""\n'
        'def few(a, b):\n    """Little.\n\n    Args:\n        a, x: one is gone.\n    """\n'
        'def good(a, b, c, *d):\n    """Much.\n\n    Args:\n        a: one.\n    Returns:\n        e: other.\n    """\n'
        "class Shop:\n    def sell(self, a, b, c):\n        ...\n    def buy(self, a, b, c, d):\n        ...\n"
        "class Shape(Base):\n    def on_step(self, a, b, c, d):\n        ...\n"
        '@app.command()\ndef run(a, b, c, d):\n    """Help."""\n'
    )
    assert undescribed_parameters(write_tree(tmp_path, {"tasks/shop.py": source})) == [
        "tasks/shop.py:1 many: 4 parameters, no `Args:`",
        "tasks/shop.py:3 few: no parameter x",
        "tasks/shop.py:20 buy: 4 parameters, no `Args:`",
    ]


def slug(heading: str) -> str:
    """A heading's anchor, as GitHub and Python-Markdown make it."""
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


def log_index_findings(log: str) -> list[str]:
    """Faults of the index by subject in a log, whose sections are the index and then one entry each."""
    first, *headings = re.findall(r"^## (.+)$", log, re.MULTILINE)
    index = log.partition("\n## ")[2].partition("\n## ")[0]
    linked, entries = set(re.findall(r"\]\(#([^)]+)\)", index)), {slug(heading): heading for heading in headings}
    return [
        *([] if first == "Index by subject" else [f"the first section is {first!r}, not the index"]),
        *(f"not in the index: {heading}" for anchor, heading in entries.items() if anchor not in linked),
        *(f"no such entry: #{anchor}" for anchor in sorted(linked - entries.keys())),
    ]


def test_the_log_opens_with_an_index_that_has_every_entry() -> None:
    fail_if(log_index_findings((ROOT / "docs/log.md").read_text(encoding="utf-8")), "docs/log.md, its first table:")


def test_an_entry_that_the_index_lacks_is_found() -> None:
    entries = "## 2026-01-01: one, of `a`\n\n## 2026-01-02: a package's two\n"
    both = "[one](#2026-01-01-one-of-a), [two](#2026-01-02-a-packages-two)"
    assert log_index_findings(f"# Log\n\n## Index by subject\n\n| x | {both} |\n\n{entries}") == []
    index = "## Index by subject\n\n| x | [one](#2026-01-01-one-of-a), [three](#2026-01-03-three) |\n"
    assert log_index_findings(f"# Log\n\n{index}\n{entries}") == [
        "not in the index: 2026-01-02: a package's two",
        "no such entry: #2026-01-03-three",
    ]
    assert "the first section is '2026-01-01: one, of `a`', not the index" in log_index_findings(entries + index)
