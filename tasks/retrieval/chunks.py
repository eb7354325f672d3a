"""Sections cut into chunks that a retrieval model reads whole.

A chunk is embedded together with the headings above it, so both count. A section that fits stays
whole; a longer one is cut between paragraphs, else lines, else sentences, else words. No word is
dropped, none appears twice, and what cannot be cut so is an error, never a shorter text.
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
"""How many tokens a text has for the retrieval model, its own opening and end included."""

_CUTS = (
    (re.compile(r"\n\s*\n"), "\n\n"),
    (re.compile(r"\n"), "\n"),
    (re.compile(r"(?<=[.!?…])\s+"), " "),
    (re.compile(r"\s+"), " "),
)
"""Where a text may be cut, the best places first, and what joins its parts again."""


class Passage(Record):
    """A piece of a document: where it stands and what it says.

    `id` is made from file and heading, so it outlives a change of the text: `delivery.md#what-it-costs`,
    and `…/2` for the second chunk of that name.
    """

    id: str
    source: str
    headings: tuple[str, ...]
    text: str

    @property
    def path(self) -> str:
        """The headings above it, outermost first."""
        return " > ".join(self.headings)

    @property
    def section(self) -> str:
        """The section that it is of, as `FILE#HEADING`."""
        return "#".join((self.source, *self.headings[-1:]))

    @property
    def embedded(self) -> str:
        """What is embedded and searched: the headings and the text."""
        return _with_headings(self.headings, self.text)


def chunk_folder(folder: Path, count: Count, max_tokens: int) -> list[Passage]:
    """The chunks of every document below `folder`.

    Raises:
        GraftError: a document cannot be read or cut; the message says which and what to do.
    """
    chunks: list[Passage] = []
    for path in document_files(folder):
        try:
            chunks += chunk_sections(path.relative_to(folder).as_posix(), read_document(path), count, max_tokens)
        except UncuttableError as error:
            raise GraftError(
                f"{path}: {error}, and index.max_tokens in params.yaml is {max_tokens}: shorten it or its headings"
            ) from error
    return chunks


class UncuttableError(ValueError):
    """A word is longer, with its headings, than a chunk may be."""


def chunk_sections(source: str, sections: Iterable[DocumentSection], count: Count, max_tokens: int) -> list[Passage]:
    """The chunks of one document, each of at most `max_tokens` with its headings.

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
    """`text` in as few cuts as it takes for each piece to fit, taken from the front.

    Raises:
        UncuttableError: a single word does not fit.
    """
    if fits(text):
        return [text]
    if level == len(_CUTS):
        raise UncuttableError(f"the word {text[:40]!r} ({len(text)} characters) does not fit into a chunk")
    where, joint = _CUTS[level]
    packed: list[str] = []
    for part in filter(None, where.split(text)):
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
