"""Checkpoints: one that is not intact is removed, and training resumes from the one before it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.core.files import write_text
from tasks.training.checkpoints import SEAL, last_checkpoint, seal


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three intact checkpoints, of which step 10 is newer than step 8 by number but not by name."""
    for step in (4, 8, 10):
        write_text(tmp_path / f"checkpoint-{step}/adapter_model.safetensors", f"weights {step}")
        write_text(tmp_path / f"checkpoint-{step}/trainer_state.json", "{}")
        seal(tmp_path / f"checkpoint-{step}")
    return tmp_path


def test_the_newest_is_taken(folder: Path) -> None:
    assert last_checkpoint(folder) == folder / "checkpoint-10"


def test_none_is_none(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path / "nothing") is None


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        (SEAL, None, "was not finished"),
        (SEAL, '{"trunc', "is damaged (seal.json)"),
        ("adapter_model.safetensors", None, "is damaged (adapter_model.safetensors)"),
        ("adapter_model.safetensors", "weights 1", "is damaged (adapter_model.safetensors)"),
        ("trainer_state.json", "", "is damaged (trainer_state.json)"),
    ],
)
def test_one_that_is_not_whole_is_skipped(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str, content: str | None, reason: str
) -> None:
    path = folder / "checkpoint-10" / name
    if content is None:
        path.unlink()
    else:
        write_text(path, content)
    assert last_checkpoint(folder) == folder / "checkpoint-8"
    assert capsys.readouterr().out == f"train: checkpoint-10 {reason}; it is removed\n"
    assert not (folder / "checkpoint-10").exists()
