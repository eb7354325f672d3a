"""The page of the telemetry row's columns."""

from __future__ import annotations

from docs.generators.markdown import code, prose, sections, table
from docs.generators.source import field_descriptions, purpose
from tasks.monitoring.telemetry_row import SCHEMA, TelemetryRow

INTRODUCTION = """
# Telemetry row

The service writes one row per answer, without the customer's words (`tasks/monitoring/telemetry_row.py`). The rows
lie in `.graft/telemetry/`, a folder per day, as JSON Lines while a writer is open and as Parquet afterwards
(`tasks/monitoring/telemetry_store.py`). Any reader of Parquet reads them; columns keep their names across versions.
"""


def page() -> str:
    """Every column with its type in Parquet, and whether it may be missing."""
    described = field_descriptions(TelemetryRow)
    rows = [
        (code(field.name), described[field.name], f"{field.type}{', or null' if _optional(field.name) else ''}")
        for field in SCHEMA
    ]
    return sections(INTRODUCTION, prose(purpose(TelemetryRow)), table(("column", "meaning", "type"), rows))


def _optional(name: str) -> bool:
    return type(None) in getattr(TelemetryRow.model_fields[name].annotation, "__args__", ())
