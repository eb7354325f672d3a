"""Training checkpoints with a seal: only complete and undamaged ones are resumed from.

The Trainer writes a checkpoint file by file. When all files are written they are sealed with their sha256;
a folder without a seal was not finished, and one whose files differ from the sealed ones was damaged.
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
"""The file in a checkpoint that lists the sha256 of the others."""


class SealCallback(TrainerCallback):
    """Seals every checkpoint after the Trainer has written it."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        PartialState().wait_for_everyone()  # each worker writes its own file
        if state.is_world_process_zero:
            seal(Path(args.output_dir or "") / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")


def seal(checkpoint: Path) -> None:
    """Write the sha256 of each file of a finished `checkpoint`."""
    write_json(checkpoint / SEAL, sha256_tree(checkpoint, skip=frozenset({SEAL})))


def fault(checkpoint: Path) -> str | None:
    """The reason why training cannot resume from `checkpoint`; None if it can."""
    try:
        sealed = json.loads((checkpoint / SEAL).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return "was not finished"
    except ValueError:
        return f"is damaged ({SEAL})"
    actual = sha256_tree(checkpoint, skip=frozenset({SEAL}))
    damaged = sorted(name for name in sealed.keys() | actual.keys() if sealed.get(name) != actual.get(name))
    return f"is damaged ({', '.join(damaged)})" if damaged else None


def last_checkpoint(folder: Path) -> Path | None:
    """The newest intact checkpoint in `folder`; newer ones that are not intact are reported and removed."""
    checkpoints = folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    for checkpoint in sorted(checkpoints, key=lambda p: int(p.name.rpartition("-")[2]), reverse=True):
        reason = fault(checkpoint)
        if reason is None:
            return checkpoint
        print(f"train: {checkpoint.name} {reason}; it is removed", flush=True)
        shutil.rmtree(checkpoint)
    return None
