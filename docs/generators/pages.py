"""The generated pages of `docs/reference`, each with its generator."""

from __future__ import annotations

from collections.abc import Callable

from docs.generators import (
    cli,
    deployment_settings,
    files_and_state,
    http_api,
    interfaces,
    manifest,
    params,
    telemetry_row,
)
from docs.generators.source import ROOT

FOLDER = ROOT / "docs/reference"
COMMAND = "make reference"
PAGES: dict[str, Callable[[], str]] = {
    "cli.md": cli.page,
    "params.md": params.page,
    "serve-yaml.md": deployment_settings.page,
    "telemetry-row.md": telemetry_row.page,
    "http-api.md": http_api.page,
    "manifest.md": manifest.page,
    "files-and-state.md": files_and_state.page,
    "interfaces.md": interfaces.page,
}


def render(name: str) -> str:
    """The text of a page, with a note on where it comes from."""
    page = PAGES[name]
    generator = page.__module__.replace(".", "/") + ".py"
    title, _, rest = page().partition("\n")
    return f"{title}\n\n<!-- Made by {generator}; `{COMMAND}` writes it anew. -->\n{rest}"
