"""Document loaders: Markdown, plain text and PDF as sections, the text under each heading with the headings above it.

Markdown has a section per `#` heading, plain text is one section, and a PDF has a section per page, of
its embedded text only (no OCR). Nothing is rendered: markup, tables and lists stay as they are written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks.core.errors import GraftError

SUFFIXES = (".md", ".txt", ".pdf")
_HEADING = re.compile(r"(#{1,6})[ \t]+(.*?)(?:[ \t]+#+)?[ \t]*")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")


@dataclass(frozen=True)
class DocumentSection:
    """The text below one heading of a document."""

    headings: tuple[str, ...]
    """The headings that lead to the text, outermost first."""
    text: str
    """The text, without its headings."""


def document_files(folder: Path) -> list[Path]:
    """The documents below a folder, sorted; names that begin with a dot are skipped.

    Raises:
        GraftError: a file has an unsupported suffix.
    """
    files = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
    for path in files:
        if path.suffix.lower() not in SUFFIXES:
            raise GraftError(f"{path}: only {', '.join(SUFFIXES)} can be read; save it as one of them, or move it away")
    return files


def read_document(path: Path) -> list[DocumentSection]:
    """The sections of a document that contain text, in document order.

    A heading without text of its own appears only in the sections below it. Text above the first
    heading belongs to a section named after the file.

    Raises:
        GraftError: the file cannot be read, or it contains no text.
    """
    title = re.sub(r"[-_]+", " ", path.stem)
    if path.suffix.lower() == ".pdf":
        sections = _pdf_sections(path, title)
    else:
        text = _text_of(path)
        sections = (
            list(markdown_sections(text, title)) if path.suffix.lower() == ".md" else [DocumentSection((title,), text)]
        )
    filled = [DocumentSection(section.headings, section.text.strip()) for section in sections if section.text.strip()]
    if not filled:
        hint = "; if it is a scan, run OCR over it first" if path.suffix.lower() == ".pdf" else ""
        raise GraftError(f"{path}: it contains no text; add text or move it away{hint}")
    return filled


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise GraftError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    except UnicodeDecodeError as error:
        raise GraftError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error


def markdown_sections(text: str, title: str) -> Iterator[DocumentSection]:
    """The sections of a Markdown text; text above its first heading belongs to `title`."""
    path: list[tuple[int, str]] = [(0, title)]
    lines: list[str] = []
    fence = ""
    for line in text.split("\n"):
        if mark := _FENCE.match(line):
            fence = mark[1] if not fence else "" if mark[1].startswith(fence) else fence
        heading = None if fence else _HEADING.fullmatch(line)
        if heading is None:
            lines.append(line)
            continue
        yield DocumentSection(tuple(name for _, name in path), "\n".join(lines))
        lines = []
        level = len(heading[1])
        path = [(above, name) for above, name in path if 0 < above < level] + [(level, heading[2])]
    yield DocumentSection(tuple(name for _, name in path), "\n".join(lines))


def _pdf_sections(path: Path, title: str) -> list[DocumentSection]:
    from pypdf import PdfReader

    try:
        reader = PdfReader(path)
        locked = reader.is_encrypted and not reader.decrypt("")
        if not locked:
            title = (reader.metadata and reader.metadata.title) or title
            pages = [page.extract_text() for page in reader.pages]
    except Exception as error:  # pypdf may raise any exception on a damaged file
        raise GraftError(f"{path}: not readable as PDF ({error}); save it again, or as text") from error
    if locked:
        raise GraftError(f"{path}: the PDF is encrypted; save it without a password")
    return [DocumentSection((title, f"page {number}"), text) for number, text in enumerate(pages, start=1)]
