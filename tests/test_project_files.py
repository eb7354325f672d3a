"""Code owners, and the guides for contributors: each folder has an owner, each link leads somewhere."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support.code_structure import fail_if, read, write_tree
from tests.test_architecture import LAYERS
from tests.test_workflows import GUIDES

ROOT = Path(__file__).parent.parent
README_LINES = 70
AGENTS_LINES = 10

CODEOWNERS = [
    (line.split()[0], line.split()[1:])
    for line in read(ROOT / ".github/CODEOWNERS").splitlines()
    if line and not line.startswith("#")
]


def matches(pattern: str, path: str) -> bool:
    """Whether a pattern of CODEOWNERS covers a file: `/` at its start is the root, `**/` any folder, `*` no slash."""
    if pattern == "*":
        return True
    parts = re.split(r"(\*\*/|\*)", pattern.removeprefix("/"))
    plain = "".join({"**/": "(?:.*/)?", "*": "[^/]*"}.get(part, re.escape(part)) for part in parts)
    return re.fullmatch(plain + (".*" if pattern.endswith("/") else ""), path) is not None


def owners_of(path: str) -> list[str]:
    """The owners in the last line that matches."""
    return [owners for pattern, owners in CODEOWNERS if matches(pattern, path)][-1]


def tracked() -> list[str]:
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    return subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


def test_every_folder_and_layer_has_an_owner() -> None:
    patterns = {pattern for pattern, _ in CODEOWNERS}
    tops = {path.split("/")[0] for path in tracked() if "/" in path and not path.startswith((".ci/", ".dvc/"))}
    layers = {layer.removesuffix("/*") for layer in LAYERS}
    wanted = {f"**/{layer}/" if "/" in layer else f"**/{layer}/*.py" for layer in layers}
    wanted |= {f"/{top}/" for top in tops - layers}
    fail_if(sorted(wanted - patterns), "add a line to .github/CODEOWNERS:")


def test_every_pattern_of_an_owner_matches_a_file() -> None:
    files = tracked()
    idle = [pattern for pattern, _ in CODEOWNERS if not any(matches(pattern, path) for path in files)]
    fail_if(idle, ".github/CODEOWNERS: no file has this path:")


def test_the_owners_are_those_of_the_settings() -> None:
    keys = yaml.safe_load(read(ROOT / "params.yaml"))["owners"]
    assert {owner for _, owners in CODEOWNERS for owner in owners} == {f"@graft-maintainers/{key}" for key in keys}
    assert all(len(owners) == 1 for _, owners in CODEOWNERS)


@pytest.mark.parametrize(
    ("path", "owner"),
    [
        ("Makefile", "operations"),
        ("data/raw/order_status.jsonl", "data"),
        ("data/shop/orders.jsonl", "application"),
        ("tasks/train.py", "model"),
        ("tasks/contract.py", "data"),
        ("tasks/gate/verdict.py", "model"),
        ("tests/tasks/gate/test_verdict.py", "model"),
        ("tests/tasks/test_train.py", "model"),
        ("tests/test_words.py", "operations"),
        ("deployments/app/turn.py", "application"),
        ("deployments/app/routing/routing.py", "serving"),
        ("deployments/train.py", "model"),
    ],
)
def test_the_last_line_that_matches_names_the_owner(path: str, owner: str) -> None:
    assert owners_of(path) == [f"@graft-maintainers/{owner}"]


def broken_links(root: Path, path: str) -> list[str]:
    """Links of a Markdown file to files that are not there, and to headings that the file does not have."""
    found = []
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", read(root / path), flags=re.DOTALL)):
        name, _, anchor = target.partition("#")
        if re.match(r"\w+:", name):
            continue
        file = root / Path(path).parent / name if name else root / path
        if not file.exists():
            found.append(f"{path}: {target}")
        elif anchor and anchor not in headings(read(file)):
            found.append(f"{path}: {target}: no such heading")
    return found


def headings(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a Markdown file."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", GUIDES)
def test_links_of_the_guides_lead_somewhere(path: str) -> None:
    fail_if(broken_links(ROOT, path), "broken links:")


def test_broken_links_are_found(tmp_path: Path) -> None:
    page = "[a](docs/b.md) [c](docs/c.md#its-own-part) [d](docs/c.md#another) [e](#top-1) [f](https://x.example/y)\n"
    files = {"a.md": f"# Top: 1\n{page}", "docs/c.md": "## Its `own` part\n"}
    assert broken_links(write_tree(tmp_path, files), "a.md") == [
        "a.md: docs/b.md",
        "a.md: docs/c.md#another: no such heading",
    ]


def test_the_first_pages_stay_short() -> None:
    lines = {path: len(read(ROOT / path).splitlines()) for path in ("README.md", "AGENTS.md")}
    assert lines["README.md"] <= README_LINES
    assert lines["AGENTS.md"] <= AGENTS_LINES
