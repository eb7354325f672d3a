"""Checkpoints that are whole or passed over.

The Trainer writes a checkpoint file by file. When all are there they are sealed with their sha256;
a folder without its seal was not finished, and one whose files are not the sealed ones was damaged.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from tasks.core.files import sha256_tree, write_json

SEAL = "seal.json"


class SealCallback(TrainerCallback):
    """Seals every checkpoint that the Trainer has written."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        PartialState().wait_for_everyone()  # each worker writes a file of its own
        if state.is_world_process_zero:
            seal(Path(args.output_dir or "") / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")


def seal(checkpoint: Path) -> None:
    """Write down what `checkpoint` holds, now that it is finished."""
    write_json(checkpoint / SEAL, sha256_tree(checkpoint, skip=frozenset({SEAL})))


def fault(checkpoint: Path) -> str | None:
    """Why training cannot go on from `checkpoint`; None if it can."""
    try:
        sealed = json.loads((checkpoint / SEAL).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return "was not finished"
    except ValueError:
        return f"is damaged ({SEAL})"
    found = sha256_tree(checkpoint, skip=frozenset({SEAL}))
    damaged = sorted(name for name in sealed.keys() | found.keys() if sealed.get(name) != found.get(name))
    return f"is damaged ({', '.join(damaged)})" if damaged else None


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint in `folder`; newer ones that are not whole are named and removed."""
    found = folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    for checkpoint in sorted(found, key=lambda p: int(p.name.rpartition("-")[2]), reverse=True):
        reason = fault(checkpoint)
        if reason is None:
            return checkpoint
        print(f"train: {checkpoint.name} {reason}; it is passed over", flush=True)
        shutil.rmtree(checkpoint)
    return None
