"""The tutorial on own data, in a copy of the repository with a tiny base and a stack of its own.

Base and embedding come from the shared stack, which has made them; what the tutorial changes, it changes in its copy.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.support.prefect_stack import GraftStack, copy_repository, edit_yaml, make_small
from tests.support.tutorial import Tutorial, addresses

pytestmark = pytest.mark.tutorials
MADE = ("build", ".dvc/cache", "dvc.lock")
GIT = ["git", "-c", "user.name=Ada", "-c", "user.email=ada@example.org"]


@pytest.fixture
def clone(
    stack: GraftStack, refused: tuple[int, str], tiny_prompts: Path, tiny_embedding: Path
) -> Iterator[GraftStack]:
    """A committed copy in which a first release has run; its gate asks for as many rows as the repository's does."""
    assert "ended Refused" in refused[1]
    folder = Path(tempfile.mkdtemp(prefix="gt-"))  # short: Ray's sockets lie below it
    root = copy_repository(folder / "r")
    make_small(root, stack.root.parent / "base", tiny_prompts, tiny_embedding)
    rows = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["gate"]["min_rows"]
    edit_yaml(root / "params.yaml", {"gate.min_rows": rows})
    edit_yaml(root / "deployments/prefect.yaml", {"deployments.2.schedules": [{"interval": 3600}]})
    for name in MADE:
        copy = shutil.copytree if (stack.root / name).is_dir() else shutil.copy
        copy(stack.root / name, root / name)
    for name in (".gitignore", ".dvc/.gitignore"):
        shutil.copy(ROOT / name, root / name)
    for command in (["add", "--all"], ["commit", "--quiet", "--message", "as cloned"]):
        subprocess.run([*GIT, *command], cwd=root, check=True)
    made = GraftStack.at(root)
    try:
        yield made
    finally:
        made.graft("down")
        shutil.rmtree(folder, ignore_errors=True)


def test_own_data_is_added_then_replaces_all_then_goes_back(clone: GraftStack) -> None:
    page = Tutorial(ROOT / "docs/tutorial/your-own-data.md", clone.root, addresses(clone), home=clone.home)
    outputs = page.run()
    assert outputs["git status --short data params.yaml"].strip() == "", "the data is not as it was"
    assert not (clone.root / "data/raw/tickets.jsonl").exists()
    assert len(list((clone.root / ".graft/replaced").glob("*/data/raw/chats.jsonl"))) == 1
    assert clone.production() is None
