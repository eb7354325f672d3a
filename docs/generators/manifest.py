"""The page of a model package's manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from docs.generators.markdown import block, code, prose, sections, table
from docs.generators.schema import type_text
from docs.generators.source import field_descriptions, purpose
from tasks.core.renamed_keys import old_names
from tasks.core.settings import EngineSettings, RetrievalSettings
from tasks.model_package.constraints import Constraints
from tasks.model_package.manifest import BaseModelInfo, Fidelity, Grounding, Manifest

INTRODUCTION = """
# Manifest

A model package is an immutable folder, and `manifest.json` is its table of contents (`tasks/model_package/manifest.py`,
`tasks/model_package/constraints.py`). The sha256 of the manifest's own bytes is the package's digest, its name
everywhere; so a change of any value makes another package. Keys keep the spelling of version 0.1
([renames of 0.2](renames-0.2.md)). [Model package](../explanation/model-package.md) explains the parts.
"""
RECORDS: dict[str, type[BaseModel]] = {
    "manifest.json": Manifest,
    "base": BaseModelInfo,
    "engine": EngineSettings,
    "constraints": Constraints,
    "fidelity": Fidelity,
    "grounding": Grounding,
    "grounding.retrieval": RetrievalSettings,
}
EXAMPLE = Path(__file__).with_name("manifest_example.json")


def page() -> str:
    """The records of a manifest, and an example."""
    return sections(
        INTRODUCTION,
        *(sections(f"## {code(name)}", _record(model)) for name, model in RECORDS.items()),
        "## Example",
        "The manifest of a package of the default data; long lists and hashes are cut (`…`).",
        block("json", json.dumps(shortened(example()), indent=2, ensure_ascii=False)),
    )


def example() -> dict[str, Any]:
    """A manifest as it lies on disk; reading it checks that it is one of this version."""
    text = EXAMPLE.read_text(encoding="utf-8")
    Manifest.model_validate_json(text)
    content: dict[str, Any] = json.loads(text)
    return content


def shortened(value: Any) -> Any:
    """Hashes cut to eight digits, and lists and mappings of many similar entries to two."""
    if isinstance(value, dict):
        similar = len(value) > 3 and len({type(one) for one in value.values()}) == 1 and _is_data(value)
        kept = list(value.items())[:2] if similar else list(value.items())
        return {key: shortened(one) for key, one in kept} | ({"…": "…"} if similar else {})
    if isinstance(value, list):
        return [*map(shortened, value[:2]), "…"] if len(value) > 2 else value
    return f"{value[:8]}…" if isinstance(value, str) and len(value) == 64 and value.isalnum() else value


def _is_data(value: dict[str, Any]) -> bool:
    """Whether the keys are data, such as file names and labels, and no fields of a record."""
    return all("." in key for key in value) or all(isinstance(one, int) for one in value.values())


def _record(model: type[BaseModel]) -> str:
    schema = model.model_json_schema()
    described = field_descriptions(model)
    stored = old_names("retrieval", described) if model is RetrievalSettings else described
    names = dict(zip(stored, described, strict=True))
    rows = [(code(old), described[new], _type(model, schema, new)) for old, new in names.items()]
    text = "" if model in {EngineSettings, RetrievalSettings} else prose(purpose(model))
    return sections(text, table(("key", "meaning", "type"), rows))


def _type(model: type[BaseModel], schema: dict[str, Any], name: str) -> str:
    """The type; a record of its own is named by its heading on this page."""
    kind = next((key for key, one in RECORDS.items() if _refers(schema["properties"][name], one)), None)
    if kind is None:
        return type_text(schema["properties"][name])
    optional = not model.model_fields[name].is_required()
    link = f"[{kind}](#{kind.replace('.', '')})"
    return f"{link} or null" if optional else link


def _refers(schema: dict[str, Any], model: type[BaseModel]) -> bool:
    return f'/{model.__name__}"' in json.dumps(schema)
