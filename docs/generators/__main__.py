"""Writes every generated reference page: `python -m docs.generators`, which `make reference` runs."""

from __future__ import annotations

from docs.generators.pages import FOLDER, PAGES, render


def main() -> None:
    """Write each page that differs, and name it."""
    for name in PAGES:
        path, text = FOLDER / name, render(name)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(path)


if __name__ == "__main__":
    main()
