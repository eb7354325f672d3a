"""The generated reference pages: they are fresh, and nothing in them is without a description.

Covers every module of `docs/generators`: `cli`, `deployment_settings`, `files_and_state`, `http_api`, `http_source`,
`interfaces`, `manifest`, `markdown`, `pages`, `params`, `path_users`, `schema`, `settings_tables`, `source`,
`state_facts` and `telemetry_row`.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer
from pydantic import BaseModel, Field

from docs.generators import cli, files_and_state, http_api, http_source, interfaces, manifest, state_facts
from docs.generators.markdown import table
from docs.generators.pages import COMMAND, FOLDER, PAGES, render
from docs.generators.schema import type_text
from docs.generators.source import UndescribedError, field_descriptions, strings_below
from tasks.core.settings import GateSettings, LengthSettings, Settings

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "transformers", "great_expectations", "evidently", "ray", "prefect", "openvino"}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_what_its_generator_makes(name: str) -> None:
    path = FOLDER / name
    stale = not path.is_file() or path.read_text(encoding="utf-8") != render(name)
    assert not stale, f"docs/reference/{name} is not what the code says: run `{COMMAND}` and commit the page"


def test_the_generators_import_nothing_heavy() -> None:
    code = "import sys, docs.generators.pages; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stdout.split())


def test_every_key_of_the_settings_is_on_its_page() -> None:
    page = render("params.md")
    assert "| `non_inferiority_margin` | `0.25` | Quality that the slice may lose" in page, "an inherited field"
    for section, field in Settings.model_fields.items():
        kind = field.annotation
        assert isinstance(kind, type) and issubclass(kind, BaseModel)
        assert f"\n## `{section}`\n" in page
        assert all(f"| `{name}` |" in page or f" `{section}.{name}`\n" in page for name in kind.model_fields)


def test_descriptions_are_read_from_bases_and_from_attribute_lists() -> None:
    assert list(field_descriptions(LengthSettings)) == ["min_rows", "non_inferiority_margin", "edges"]
    assert field_descriptions(GateSettings)["seed"] == "Random seed of the bootstrap."
    body = ast.parse('a: int\n"""Of\n    a."""\nb = 1\n"""Of b."""\nc: int\nd: int = f()\n').body
    assert strings_below(body) == {"a": "Of\na.", "b": "Of b."}


def test_a_field_without_a_description_fails() -> None:
    class Undescribed(Settings):
        extra: int

    with pytest.raises(UndescribedError, match="no description of extra"):
        field_descriptions(Undescribed)


def test_a_parameter_and_a_command_without_help_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    app = typer.Typer()

    @app.command()
    def silent(name: str) -> None:
        """A command."""

    @app.command()
    def mute() -> None: ...

    monkeypatch.setattr(cli, "app", app)
    monkeypatch.setattr(cli, "_help", lambda command: command.help or "Of the group.")
    with pytest.raises(UndescribedError, match="graft silent: the parameter name"):
        cli.page()
    monkeypatch.undo()
    with pytest.raises(UndescribedError, match="the command mute has no docstring"):
        cli._help(typer.main.get_command(app).commands["mute"])  # type: ignore[attr-defined]


def test_paths_headers_errors_and_interfaces_without_a_description_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(page: Any, message: str) -> None:
        with pytest.raises(UndescribedError, match=message):
            page()
        monkeypatch.undo()

    monkeypatch.delitem(state_facts.STATE, "incidents")
    fails(files_and_state.page, "STATE: without an entry: .'incidents'.")
    monkeypatch.setitem(state_facts.BUILT, "build/gone", "Nothing.")
    fails(files_and_state.page, "entries of no path in the source: .'build/gone'.")
    monkeypatch.delitem(http_api.ERRORS, "timeout")
    fails(http_api.page, "error codes without a description: .'timeout'.")
    monkeypatch.delitem(http_api.REQUEST_HEADERS, "idempotency-key")
    fails(http_api.page, "request headers without a description: .'idempotency-key'.")
    monkeypatch.setitem(interfaces.MODULES, "tasks.tools.policy", ("Rule", "Gone"))
    fails(interfaces.page, "tasks.tools.policy: no docstring of Gone")


def test_a_body_field_without_a_description_fails() -> None:
    schemas = {"A": {"properties": {"b": {"$ref": "#/B"}, "c": {"type": "string"}}, "description": "A."}}
    with pytest.raises(UndescribedError, match=r"A\.b of"):
        http_api._record("A", schemas)
    with pytest.raises(UndescribedError, match=r"A\.c of"):
        http_api._record("A", {**schemas, "B": {"description": "B."}})


def test_errors_are_found_with_each_of_their_statuses() -> None:
    found = http_source.errors()
    assert found["invalid_value"] == {400}
    assert found["engine_error"] == {500}
    assert found["overloaded"] == {503}, "its code is a constant of another module"
    assert found["not_found"] == {404}, "its code and status are in a table"
    assert {"missing_required_parameter", "rate_limit_exceeded"} <= set(found)


class Sample(BaseModel):
    """Kinds of fields."""

    fraction: Annotated[float, Field(ge=0, le=1)]
    positive: Annotated[int, Field(gt=0)]
    choice: Literal["a", "b"] | None
    fixed: Literal[1]
    texts: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
    bounds: dict[Literal["min", "max"], float]
    flag: bool
    any: Any


def test_types_are_shown_in_words() -> None:
    shown = {name: type_text(schema) for name, schema in Sample.model_json_schema()["properties"].items()}
    assert shown == {
        "fraction": "number, 0 to 1",
        "positive": "integer, above 0",
        "choice": "one of `a`, `b` or null",
        "fixed": "only `1`",
        "texts": "list of text (not empty), not empty",
        "bounds": "mapping of one of `min`, `max` to number",
        "flag": "true or false",
        "any": "any value",
    }


def test_a_cell_is_one_line_and_hides_its_separators() -> None:
    assert table(("a",), [("x |\ny",)]) == "| a |\n| --- |\n| x \\| y |\n"
    assert table(("a",), []) == ""


def test_the_example_of_a_manifest_is_read_and_shortened() -> None:
    example = manifest.example()
    short = manifest.shortened(example)
    assert short.keys() == example.keys(), "no key of the record is cut"
    assert short["base"]["sha256"] == example["base"]["sha256"][:8] + "…"
    assert list(short["data"]["labels"]) == ["after_call", "cancel_order", "…"]
