"""The loss curve as a picture: the loss of each training step, its moving average, and the held-out loss."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot


def draw(history: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw a Trainer's log history (entries with `step` and `loss` or `eval_loss`) as a PNG."""
    train = [(e["step"], e["loss"]) for e in history if "loss" in e]
    held_out = [(e["step"], e["eval_loss"]) for e in history if "eval_loss" in e]
    figure, axes = pyplot.subplots(figsize=(7, 4), dpi=120)
    if train:
        steps, losses = zip(*train, strict=True)
        window = max(1, len(losses) // 12)
        smooth = [
            sum(losses[max(0, i - window + 1) : i + 1]) / len(losses[max(0, i - window + 1) : i + 1])
            for i in range(len(losses))
        ]
        axes.plot(steps, losses, color="#9db8a5", linewidth=1, label="training, each step")
        axes.plot(steps, smooth, color="#2f6b46", linewidth=2, label=f"training, mean of {window}")
    if held_out:
        axes.plot(*zip(*held_out, strict=True), "o--", color="#b4552d", label="held out (eval split)")
    axes.set(xlabel="optimizer step", ylabel="cross entropy (nats per token)")
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
