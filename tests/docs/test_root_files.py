"""Pages of the site that show a file of the repository's root."""

from __future__ import annotations

from pathlib import Path

from docs.generators.root_files import included, on_page_markdown
from tests.support.code_structure import write_tree


def test_links_of_a_root_file_work_in_the_site(tmp_path: Path) -> None:
    text = (
        "[log](docs/log.md#a) [changes](CHANGELOG.md) [license](LICENSE) [gone](docs/gone.md) "
        "[web](https://a.example/) [here](#b) ![picture](docs/pictures/run.png)"
    )
    write_tree(tmp_path, {"SECURITY.md": text, "docs/log.md": "", "docs/changelog.md": ""})
    assert included(tmp_path, "SECURITY.md") == (
        "[log](log.md#a) [changes](changelog.md) license gone "
        "[web](https://a.example/) [here](#b) ![picture](docs/pictures/run.png)"
    )


def test_an_include_is_a_line_of_its_own(tmp_path: Path) -> None:
    write_tree(tmp_path, {"SECURITY.md": "# Security"})
    config = {"config_file_path": str(tmp_path / "mkdocs.yml")}
    assert on_page_markdown('--8<-- "SECURITY.md"\n', config=config) == "# Security\n"
    assert on_page_markdown('See `--8<-- "SECURITY.md"`.', config=config) == 'See `--8<-- "SECURITY.md"`.'
