"""The page of `params.yaml`."""

from __future__ import annotations

from docs.generators.markdown import sections
from docs.generators.settings_tables import shipped, tables
from tasks.core.paths import PARAMS
from tasks.core.settings import Settings

INTRODUCTION = """
# params.yaml

`params.yaml` holds every setting that changes the answer. `tasks/core/settings.py` reads it as one frozen tree: every
key is required, and an unknown key, a value of another type or one out of its bounds is refused with its place. A
section has the name of the stage, the folder or the module that reads it. DVC runs a stage again when a section that
it depends on changes; [renames of 0.2](renames-0.2.md) lists the keys of version 0.1.
"""


def page() -> str:
    """Every section of `params.yaml`."""
    return sections(INTRODUCTION, tables(Settings, shipped(PARAMS)))
