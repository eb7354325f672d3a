"""Retrieval benchmark on third-party documentation: the FAQ of Python 3.11, as Debian packages it.

Each heading with a question is a query, and the text below it is indexed. With its own heading in the
passage a query would find itself, so the relevant metric is the one without, and three variants are measured:

    none     the passages are text alone
    above    with the headings above the question's own (page and group)
    all      with its own heading too, as documents are indexed in the service

A question whose text is split into several passages is found when one of them is.
Everything else is the service's own code: passages, vectors, search. The minimum similarity is off, since every
question has its answer here.

    apt-get download python3.11-doc && dpkg -x python3.11-doc_*.deb FOLDER
    python -m benchmarks.retrieval_python_faq FOLDER

Without FOLDER it runs the first line itself, in a temporary folder. The last line is one JSON object.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

from benchmarks.retrieval import searches
from tasks.core.errors import GraftError, run_main
from tasks.core.paths import BUILT_EMBEDDING
from tasks.core.settings import load_settings
from tasks.evaluation.retrieval_metrics import mean_reciprocal_rank, rank, recall_at
from tasks.retrieval.chunks import Passage, chunk_sections
from tasks.retrieval.documents import DocumentSection
from tasks.retrieval.embedder import Embedder
from tasks.retrieval.index_files import build_index
from tasks.retrieval.search import PassageIndex

PACKAGE = "python3.11-doc"
PAGES = "usr/share/doc/python3.11/html/faq"
KEPT = {"none": slice(0, 0), "above": slice(0, -1), "all": slice(None)}
K = 5
_BLOCKS = {"p", "li", "pre", "dt", "dd", "tr", "div", "table", "ul", "ol", "dl"}
_HEADINGS = {"h1", "h2", "h3", "h4"}


@dataclass
class Entry:
    """A `<section>` of a page."""

    id: str
    """Its id."""
    headings: list[str]
    """The headings from the page's down to its own."""
    text: str = ""
    """Its own text."""
    parent: bool = False
    """Whether it contains other sections."""


@dataclass
class Page(HTMLParser):
    """A parser of a page that Sphinx generated, with the entries found so far."""

    entries: list[Entry] = field(default_factory=list)
    """The sections, in the order of the page."""

    def __post_init__(self) -> None:
        super().__init__()
        self._open: list[Entry] = []
        self._heading = False
        self._skipped = 0
        self._pre = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag == "section":
            for above in self._open[-1:]:
                above.parent = True
            headings = [*self._open[-1].headings] if self._open else []
            self._open.append(Entry(attributes.get("id") or "", [*headings, ""]))
            self.entries.append(self._open[-1])
        elif self._skipped or "headerlink" in (attributes.get("class") or "") or tag in {"nav", "script"}:
            self._skipped += tag not in {"img", "br", "hr", "col", "input", "link", "meta"}
        elif tag in _HEADINGS:
            self._heading = True
        self._pre |= tag == "pre"
        self._break(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._skipped:
            self._skipped -= 1
        elif tag == "section":
            self._open.pop()
        elif tag in _HEADINGS:
            self._heading = False
        self._pre &= tag != "pre"
        self._break(tag)

    def handle_data(self, data: str) -> None:
        if not self._open or self._skipped:
            return
        text = data if self._pre else " ".join(data.split("\n"))
        if self._heading:
            self._open[-1].headings[-1] += text
        else:
            self._open[-1].text += text

    def _break(self, tag: str) -> None:
        if tag in _BLOCKS and self._open:
            self._open[-1].text = self._open[-1].text.rstrip() + "\n\n"


def read_faq(folder: Path) -> Iterator[tuple[str, DocumentSection]]:
    """Each question with a heading and text of its own, by `PAGE#ID`.

    Raises:
        GraftError: the pages are not there.
    """
    pages = [path for path in sorted((folder / PAGES).glob("*.html")) if path.name != "index.html"]
    if not pages:
        raise GraftError(f"{folder}: no {PAGES}/*.html below it; unpack Debian's {PACKAGE} there")
    for path in pages:
        page = Page()
        page.feed(path.read_text(encoding="utf-8"))
        for entry in page.entries:
            if not entry.parent and entry.text.strip():
                headings = tuple(" ".join(heading.split()) for heading in entry.headings)
                yield f"{path.stem}#{entry.id}", DocumentSection(headings, entry.text.strip())


def measure(faq: Sequence[tuple[str, DocumentSection]], kept: slice, embedder: Embedder) -> dict[str, float | None]:
    """Recall, MRR and milliseconds per search of each search method, with only the `kept` headings in the passages."""
    settings = load_settings()
    chunks: list[Passage] = []
    for name, section in faq:
        bare = DocumentSection(section.headings[kept], section.text)
        chunks += chunk_sections(name, [bare], embedder.count, settings.index.max_tokens)
    metrics: dict[str, float | None] = {"chunks": len(chunks)}
    with tempfile.TemporaryDirectory(prefix="graft-faq-") as temporary:
        build_index(chunks, embedder, settings.index.max_tokens, Path(temporary) / "index")
        off = settings.retrieval.model_copy(update={"min_similarity": -1.0, "min_expansion_similarity": -1.0})
        passages = PassageIndex(Path(temporary) / "index", Path(temporary) / "tables", off)
        for method, search in searches(passages, embedder).items():
            began = time.perf_counter()
            found = [(name, search(section.headings[-1], K)) for name, section in faq]
            metrics[f"{method}_ms"] = round((time.perf_counter() - began) / len(faq) * 1000, 1)
            ranks = [rank(chunk.source == name for chunk in hits) for name, hits in found]
            metrics[f"{method}_recall_{K}"] = recall_at(K, ranks)
            metrics[f"{method}_mrr"] = mean_reciprocal_rank(ranks)
    return metrics


def unpack(folder: Path) -> None:
    """Download Debian's package and unpack it into `folder`.

    Raises:
        GraftError: apt or dpkg failed.
    """
    for argv in (["apt-get", "download", PACKAGE], ["dpkg", "-x", f"{PACKAGE}.deb", "."]):
        try:
            subprocess.run(argv, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        except (OSError, subprocess.CalledProcessError) as error:
            raise GraftError(f"{argv[0]}: {error}; pass a folder with {PACKAGE} unpacked instead") from error
        for file in folder.glob(f"{PACKAGE}_*.deb"):
            file.rename(folder / f"{PACKAGE}.deb")


def main() -> None:
    """Print one JSON object a line: the metrics of each variant of headings, then all of them."""
    with tempfile.TemporaryDirectory(prefix="graft-faq-") as temporary:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else temporary)
        if folder == Path(temporary):
            unpack(folder)
        faq = list(read_faq(folder))
    embedder = Embedder(BUILT_EMBEDDING, threads=2)
    results = {}
    for name, kept in KEPT.items():
        results[name] = measure(faq, kept, embedder)
        print(name, json.dumps(results[name]), flush=True)
    print(json.dumps({"questions": len(faq), "k": K, **results}))


if __name__ == "__main__":
    run_main(main)
