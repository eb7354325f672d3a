"""Imports of other distributions: each is declared, and a private module of one is imported once, with a reason."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from tests.support import code_structure as code
from tests.support.code_structure import PROJECT, fail_if, read, write_tree

ROOT = Path(__file__).parent.parent
PRODUCT_EXTRAS = ("nf4", "presidio")
# Imported where they are installed, so that metadata may not know them. None: the user installs it, as
# tasks/engine/vllm.py says. `datasets` comes with trl, which takes nothing else.
OPTIONAL_IMPORTS = {
    "bitsandbytes": "bitsandbytes",
    "datasets": "trl",
    "presidio_analyzer": "presidio-analyzer",
    "spacy": "spacy",
    "trl": "trl",
    "vllm": None,
    "xllamacpp": "xllamacpp",
}


def undeclared_imports(root: Path, tops: tuple[str, ...], extras: tuple[str, ...]) -> list[str]:
    declared = code.declared(root, extras)
    found = []
    for path, line, name in code.outside_imports(root, tops):
        top = name.split(".")[0]
        if top in OPTIONAL_IMPORTS:
            optional = OPTIONAL_IMPORTS[top]
            holders = {optional} if optional else declared
        else:
            holders = code.distributions().get(top, set())
        if not holders & declared:
            found.append(f"{path}:{line} imports {top} of {' or '.join(sorted(holders)) or 'nothing installed'}")
    return list(dict.fromkeys(found))


def test_what_is_imported_is_declared() -> None:
    tools = undeclared_imports(ROOT, ("benchmarks", "docs", "tests"), (*PRODUCT_EXTRAS, "bench", "dev"))
    fail_if(undeclared_imports(ROOT, PROJECT, PRODUCT_EXTRAS) + tools, "add to pyproject.toml:")


def test_an_undeclared_import_is_found(tmp_path: Path) -> None:
    lazy = "import json, pytest\ndef f():\n    import pandas.core\n    from spacy import load\n    import vllm\n"
    write_tree(
        tmp_path,
        {
            "pyproject.toml": '[project]\ndependencies = ["numpy>=1"]\n'
            '[project.optional-dependencies]\npresidio = ["spacy~=3.8"]\ndev = ["pytest"]\n',
            "tasks/one.py": f"import numpy\nimport tasks.two\nimport nowhere\n{lazy}",
        },
    )
    assert undeclared_imports(tmp_path, ("tasks",), ("presidio",)) == [
        "tasks/one.py:3 imports nowhere of nothing installed",
        "tasks/one.py:4 imports pytest of pytest",
        "tasks/one.py:6 imports pandas of pandas",
    ]


def private_imports(root: Path) -> list[str]:
    """Private modules of others that two modules import, or one without a comment above."""
    users, found = defaultdict(set), []
    for path, line, name in code.outside_imports(root, PROJECT):
        private = code.private_root(name)
        if private is None:
            continue
        users[private].add(path)
        lines = read(root / path).splitlines()
        above = line - 2
        while above > 0 and private in lines[above]:
            above -= 1
        if not lines[above].lstrip().startswith("# "):
            found.append(f"{path}:{line} imports {private}: say in a comment above what breaks without it")
    found += [f"{private}: in {' and '.join(sorted(paths))}" for private, paths in users.items() if len(paths) > 1]
    return sorted(set(found))


def test_private_modules_of_others_are_imported_once_and_with_a_reason() -> None:
    fail_if(private_imports(ROOT), "a private module of a dependency may go with any version of it:")


def test_private_imports_without_a_reason_and_in_two_modules_are_found(tmp_path: Path) -> None:
    write_tree(
        tmp_path,
        {
            "tasks/one.py": "x = 1\nfrom evidently.legacy.core import A\n",
            "tasks/two.py": "# Drift has none without it.\nimport evidently.legacy.x\nimport evidently.legacy.y\n",
            "tasks/three.py": "# The port is open without it.\nimport ray.serve._private.replica\nimport torch\n",
        },
    )
    assert private_imports(tmp_path) == [
        "evidently.legacy: in tasks/one.py and tasks/two.py",
        "tasks/one.py:2 imports evidently.legacy: say in a comment above what breaks without it",
    ]
