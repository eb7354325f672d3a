"""Document loaders: sections with their headings, and errors that name an unreadable file and the remedy."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pypdf import PdfWriter
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

from tasks.core.errors import GraftError
from tasks.retrieval.documents import DocumentSection, document_files, read_document

MARKDOWN = """\ufeffBefore any heading.

# Returns #

## Seeds and bulbs

14 days.
- sealed

```
# no heading
~~~
```

## Empty

### Deep

Text.

## Last

End."""


def write_pdf(path: Path, pages: list[str], title: str = "", password: str = "") -> Path:
    """A PDF with one line of text on each page."""
    writer = PdfWriter()
    for text in pages:
        page = writer.add_blank_page(300, 300)
        stream = DecodedStreamObject()
        stream.set_data(f"BT /F1 12 Tf 20 200 Td ({text}) Tj ET".encode() if text else b"")
        font = {"/Type": "/Font", "/Subtype": "/Type1", "/BaseFont": "/Helvetica"}
        fonts = DictionaryObject({NameObject(key): NameObject(value) for key, value in font.items()})
        page[NameObject("/Contents")] = stream
        page[NameObject("/Resources")] = DictionaryObject(
            {NameObject("/Font"): DictionaryObject({NameObject("/F1"): fonts})}
        )
    if title:
        writer.add_metadata({"/Title": title})
    if password:
        writer.encrypt(password, algorithm="RC4-128")
    writer.write(path)
    return path


def test_markdown_gives_the_text_under_each_heading_with_the_headings_above_it(tmp_path: Path) -> None:
    (tmp_path / "our-returns.md").write_text(MARKDOWN, encoding="utf-8")
    assert read_document(tmp_path / "our-returns.md") == [
        DocumentSection(("our returns",), "Before any heading."),
        DocumentSection(("Returns", "Seeds and bulbs"), "14 days.\n- sealed\n\n```\n# no heading\n~~~\n```"),
        DocumentSection(("Returns", "Empty", "Deep"), "Text."),
        DocumentSection(("Returns", "Last"), "End."),
    ]


def test_plain_text_is_one_section_under_the_files_name(tmp_path: Path) -> None:
    (tmp_path / "opening_hours.txt").write_text("# 9 to 5\n\nNot on Sundays.\n", encoding="utf-8")
    assert read_document(tmp_path / "opening_hours.txt") == [
        DocumentSection(("opening hours",), "# 9 to 5\n\nNot on Sundays.")
    ]


def test_a_pdf_is_a_section_a_page(tmp_path: Path) -> None:
    path = write_pdf(tmp_path / "care.pdf", ["Water weekly.", "", "Prune in May."], title="Care")
    assert read_document(path) == [
        DocumentSection(("Care", "page 1"), "Water weekly."),
        DocumentSection(("Care", "page 3"), "Prune in May."),
    ]


def test_what_cannot_be_read_is_named_with_what_to_do(tmp_path: Path) -> None:
    latin, blank = tmp_path / "latin.md", tmp_path / "blank.txt"
    latin.write_bytes("Grüße".encode("latin-1"))
    blank.write_text(" \n")
    broken = tmp_path / "broken.pdf"
    broken.write_bytes(write_pdf(tmp_path / "whole.pdf", ["Water."]).read_bytes()[:200])
    for path, message in {
        latin: "latin.md: not UTF-8 at byte 2; save it as UTF-8",
        blank: "blank.txt: it contains no text; add text or move it away",
        broken: "broken.pdf: not readable as PDF",
        write_pdf(tmp_path / "scan.pdf", [""]): "scan.pdf: it contains no text.*run OCR",
        write_pdf(tmp_path / "locked.pdf", ["Water."], password="x"): "locked.pdf: the PDF is encrypted",
        tmp_path / "missing.md": "missing.md: cannot be read",
    }.items():
        with pytest.raises(GraftError, match=message):
            read_document(path)


def test_documents_are_found_in_order_and_other_kinds_are_refused(tmp_path: Path) -> None:
    assert document_files(tmp_path) == []
    for name in ("b.md", "sub/a.TXT", ".DS_Store", "a.pdf"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.name for path in document_files(tmp_path)] == ["a.pdf", "b.md", "a.TXT"]
    (tmp_path / "prices.docx").touch()
    with pytest.raises(GraftError, match=re.escape("prices.docx: only .md, .txt, .pdf can be read")):
        document_files(tmp_path)
