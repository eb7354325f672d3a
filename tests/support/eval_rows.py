"""Eval rows of systems with known metrics, for tests of the gate and its rules."""

from __future__ import annotations

import numpy as np
import pandas as pd

from tasks.core.settings import GateSettings

SETTINGS = GateSettings.model_validate(
    {
        "min_rows": 40,
        "confidence": 0.95,
        "resamples": 2000,
        "min_gain": 0.05,
        "non_inferiority_margin": 0.05,
        "min_quality": 0.0,
        "min_valid_format": 0.95,
        "slices": {
            "label": {"min_rows": 8, "non_inferiority_margin": 0.25},
            "language": {"min_rows": 8, "non_inferiority_margin": 0.25},
            "length": {"min_rows": 8, "non_inferiority_margin": 0.25, "edges": [100, 200]},
        },
        "max_ratio": {"first_token_ms": 1.5, "ms_per_token": 1.5, "peak_memory_mb": 1.5},
        "limits": {},
        "seed": 7,
    }
)


def evaluation(n: int = 90, **quality: float | np.ndarray) -> pd.DataFrame:
    """Rows of each named system with its quality (one number for all, or one per row).

    A third of the rows has the label `tool`; all are English, of 150 tokens, and equally fast and large.
    """
    parts = [
        pd.DataFrame(
            {
                "system": system,
                "id": [f"row-{i}" for i in range(n)],
                "label": ["tool" if i % 3 == 0 else "answer" for i in range(n)],
                "language": "en",
                "prompt_tokens": 150,
                "quality": values,
                "valid_format": True,
                "first_token_ms": 100.0,
                "latency_ms": 500.0,
                "decoded_tokens": 20,
                "peak_memory_mb": 800.0,
            }
        )
        for system, values in quality.items()
    ]
    return pd.concat(parts, ignore_index=True)


def system(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    """The rows of one system by id, as the gate passes them to its rules."""
    return rows[rows["system"] == name].set_index("id").sort_index()


def four_rows() -> pd.DataFrame:
    """Two systems on four rows; the candidate is right three times, the base never."""
    table = pd.DataFrame({"system": ["base"] * 4 + ["candidate"] * 4, "id": list("abcd") * 2})
    table["label"] = ["order_status", "plant_care", "plant_care", "plant_care"] * 2
    table["quality"] = [0.0] * 4 + [1.0, 1.0, 1.0, 0.0]
    table["exact_match"] = table["quality"] == 1.0
    table["tool_call_match"] = [0.0, None, None, None, 1.0, None, None, None]
    table["refusal_correct"] = None
    return table
