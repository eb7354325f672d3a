"""Chunking: document sections cut into passages (chunks) that the embedding model reads without truncation.

A passage is embedded together with the headings above it, so the token limit covers both. A section
that fits stays whole; a longer one is cut between paragraphs, else lines, else sentences, else words.
No word is dropped and none appears twice. A word that is too long to fit is an error and is never truncated.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from tasks.core.errors import GraftError
from tasks.core.records import Record
from tasks.retrieval.documents import DocumentSection, document_files, read_document

Count = Callable[[str], int]
"""Counts the tokens of a text for the embedding model, its special tokens at both ends included."""

_CUTS = (
    (re.compile(r"\n\s*\n"), "\n\n"),
    (re.compile(r"\n"), "\n"),
    (re.compile(r"(?<=[.!?…])\s+"), " "),
    (re.compile(r"\s+"), " "),
)
"""Separators at which a text may be cut, the preferred ones first, each with the string that joins its parts again."""


class Passage(Record):
    """A passage of a document: its source and its text."""

    id: str
    """Made from file and heading, so that it outlives a change of the text: `delivery.md#what-it-costs`, and
    `…/2` for the second passage of that name."""
    source: str
    """The document's path relative to the knowledge folder."""
    headings: tuple[str, ...]
    """The headings above the text, outermost first."""
    text: str
    """The text without its headings."""

    @property
    def path(self) -> str:
        """The headings above it in one line, outermost first."""
        return " > ".join(self.headings)

    @property
    def section(self) -> str:
        """The section that it belongs to, as `FILE#HEADING` with the innermost heading."""
        return "#".join((self.source, *self.headings[-1:]))

    @property
    def embedded(self) -> str:
        """The text that is embedded and searched: the headings and the text."""
        return _with_headings(self.headings, self.text)


def chunk_folder(folder: Path, count: Count, max_tokens: int) -> list[Passage]:
    """The passages of every document below `folder`.

    Raises:
        GraftError: a document cannot be read or cut; the message names the document and the remedy.
    """
    chunks: list[Passage] = []
    for path in document_files(folder):
        try:
            chunks += chunk_sections(path.relative_to(folder).as_posix(), read_document(path), count, max_tokens)
        except UncuttableError as error:
            raise GraftError(
                f"{path}: {error}, and index.max_tokens in params.yaml is {max_tokens}; shorten it or its headings"
            ) from error
    return chunks


class UncuttableError(ValueError):
    """A single word, together with its headings, exceeds the token limit of a passage."""


def chunk_sections(source: str, sections: Iterable[DocumentSection], count: Count, max_tokens: int) -> list[Passage]:
    """The passages of one document, each of at most `max_tokens` with its headings.

    Args:
        source: the document's path relative to the knowledge folder.
        sections: the document's sections, in order.
        count: counts the tokens of a text.
        max_tokens: limit of a passage with its headings, in tokens.

    Raises:
        UncuttableError: a single word does not fit.
    """
    chunks: list[Passage] = []
    names: Counter[str] = Counter()
    for section in sections:
        fits = partial(_fits, section.headings, count, max_tokens)
        for text in split_text(section.text, fits):
            name = f"{source}#{_slug(section.headings[-1]) if section.headings else ''}"
            names[name] += 1
            number = f"/{names[name]}" if names[name] > 1 else ""
            chunks.append(Passage(id=name + number, source=source, headings=section.headings, text=text))
    return chunks


def split_text(text: str, fits: Callable[[str], bool], level: int = 0) -> list[str]:
    """`text` in as few parts as it takes for each to fit, packed greedily from the front.

    Args:
        text: the text to split.
        fits: whether a part is short enough.
        level: index of the first separator in `_CUTS` to try.

    Raises:
        UncuttableError: a single word does not fit.
    """
    if fits(text):
        return [text]
    if level == len(_CUTS):
        raise UncuttableError(f"the word {text[:40]!r} ({len(text)} characters) does not fit into a passage")
    separator, joint = _CUTS[level]
    packed: list[str] = []
    for part in filter(None, separator.split(text)):
        if packed and fits(joined := packed[-1] + joint + part):
            packed[-1] = joined
        else:
            packed += split_text(part, fits, level + 1)
    return packed


def _fits(headings: tuple[str, ...], count: Count, max_tokens: int, text: str) -> bool:
    return count(_with_headings(headings, text)) <= max_tokens


def _with_headings(headings: tuple[str, ...], text: str) -> str:
    return "\n".join(filter(None, (" > ".join(headings), text)))


def _slug(heading: str) -> str:
    return re.sub(r"[\W_]+", "-", heading.lower()).strip("-")
