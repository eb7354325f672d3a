"""An old settings key is rejected with its new name, the page of renames has every one, and disk keeps the old."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.core.settings import load_redteam_settings, load_serve_settings
from tasks.core.errors import GraftError
from tasks.core.renamed_keys import MOVED_KEYS, RENAMED_KEYS, new_names, old_names
from tasks.core.settings import load_settings
from tasks.data.contract_spec import load_contract
from tests.conftest import ROOT

FILES = {
    "params.yaml": load_settings,
    "deployments/serve.yaml": load_serve_settings,
    "deployments/redteam.yaml": load_redteam_settings,
    "data/contract.yaml": load_contract,
}


def section_of(content: Any, key: str) -> dict[str, Any] | None:
    """The section that holds a dotted key, if the content has the key."""
    *parents, name = key.split(".")
    for parent in parents:
        content = content.get(parent, {}) if isinstance(content, dict) else {}
    return content if isinstance(content, dict) and name in content else None


def with_old_key(file: str, old: str, new: str) -> dict[str, Any] | None:
    """The repository's settings file with one key under its old name; None if it has no such key."""
    content = yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))
    section = section_of(content, new)
    if section is None or section_of(content, old) is not None:
        return None
    target = content
    for parent in old.split(".")[:-1]:
        target = target[parent]
    target[old.rpartition(".")[2]] = section.pop(new.rpartition(".")[2])
    return dict(content)


@pytest.mark.parametrize("old", RENAMED_KEYS)
def test_an_old_key_is_one_error_that_names_the_new_one(tmp_path: Path, old: str) -> None:
    new = RENAMED_KEYS[old]
    changed = {file: content for file in FILES if (content := with_old_key(file, old, new))}
    assert len(changed) == 1
    for file, content in changed.items():
        path = tmp_path / Path(file).name
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        with pytest.raises(GraftError) as error:
            FILES[file](path)
        assert str(error.value) == f"{path}: not as expected:\n  {old}: renamed to {new} in 0.2.0"


@pytest.mark.parametrize("old", MOVED_KEYS)
def test_a_key_that_has_a_file_of_its_own_names_the_file(tmp_path: Path, old: str) -> None:
    content = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    section, name = old.split(".")
    content[section][name] = {}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(GraftError, match=rf"{old}: moved to {MOVED_KEYS[old]} in 0\.2\.0"):
        load_settings(tmp_path / "params.yaml")
    assert (ROOT / MOVED_KEYS[old]).is_file()


def test_a_missing_key_is_still_reported_beside_an_old_one(tmp_path: Path) -> None:
    content = with_old_key("params.yaml", "train.rank", "train.lora_rank")
    assert content
    del content["train"]["seed"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(GraftError) as error:
        load_settings(tmp_path / "params.yaml")
    assert str(error.value).splitlines()[1:] == [
        "  train.seed: Field required",
        "  train.rank: renamed to train.lora_rank in 0.2.0",
    ]


def test_the_page_of_renames_has_every_key() -> None:
    page = (ROOT / "docs/reference/renames-0.2.md").read_text(encoding="utf-8")
    assert [old for old, new in RENAMED_KEYS.items() if f"| `{old}` | `{new}` |\n" not in page] == []
    assert [old for old, new in MOVED_KEYS.items() if f"| `{old}` | the file `{new}`" not in page] == []


def test_names_on_disk_are_the_old_ones_in_the_same_order() -> None:
    values = {"candidates": 20, "rrf_k": 10, "min_similarity": 0.26}
    stored = old_names("retrieval", values)
    assert list(stored.items()) == [("candidates", 20), ("rank_offset", 10), ("floor", 0.26)]
    assert new_names("retrieval", stored) == values
    assert old_names("train", values) == values
