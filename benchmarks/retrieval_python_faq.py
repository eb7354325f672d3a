"""Retrieval on documentation that nobody here wrote: the FAQ of Python 3.11, as Debian packages it.

Each headed question is asked in the words of its heading; what is indexed is the text below. With
its own heading in the chunk the question would find itself, so the figure that counts is the one
without, and three ways are told apart:

    none     the chunks are text alone
    above    with the headings above the question's own (page and group)
    all      with its own heading too, as documents are indexed in the service

Those of the package's own questions that are cut into several chunks are found when one of them is.
Everything else is the service's own code: chunks, vectors, search. The floor is off, for every
question has its answer here.

    apt-get download python3.11-doc && dpkg -x python3.11-doc_*.deb FOLDER
    python -m benchmarks.retrieval_python_faq FOLDER

Without FOLDER it does the first line itself, in a temporary folder. The last line is one JSON object.
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
    """A `<section>` of a page: its id, the headings down to its own, its own text, whether others lie in it."""

    id: str
    headings: list[str]
    text: str = ""
    parent: bool = False


@dataclass
class Page(HTMLParser):
    """A page that Sphinx made, as the entries found so far."""

    entries: list[Entry] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._open: list[Entry] = []
        self._heading = False
        self._skipped = 0
        self._pre = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "section":
            for above in self._open[-1:]:
                above.parent = True
            headings = [*self._open[-1].headings] if self._open else []
            self._open.append(Entry(given.get("id") or "", [*headings, ""]))
            self.entries.append(self._open[-1])
        elif self._skipped or "headerlink" in (given.get("class") or "") or tag in {"nav", "script"}:
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
    """Each headed question with text of its own, by `PAGE#ID`.

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
    """Recall and MRR of each way to search, and milliseconds a search, with only `kept` headings in the chunks."""
    settings = load_settings()
    chunks: list[Passage] = []
    for name, section in faq:
        bare = DocumentSection(section.headings[kept], section.text)
        chunks += chunk_sections(name, [bare], embedder.count, settings.index.max_tokens)
    figures: dict[str, float | None] = {"chunks": len(chunks)}
    with tempfile.TemporaryDirectory(prefix="graft-faq-") as temporary:
        build_index(chunks, embedder, settings.index.max_tokens, Path(temporary) / "index")
        off = settings.retrieval.model_copy(update={"min_similarity": -1.0, "min_expansion_similarity": -1.0})
        passages = PassageIndex(Path(temporary) / "index", Path(temporary) / "tables", off)
        for way, search in searches(passages, embedder).items():
            began = time.perf_counter()
            found = [(name, search(section.headings[-1], K)) for name, section in faq]
            figures[f"{way}_ms"] = round((time.perf_counter() - began) / len(faq) * 1000, 1)
            ranks = [rank(chunk.source == name for chunk in hits) for name, hits in found]
            figures[f"{way}_recall_{K}"] = recall_at(K, ranks)
            figures[f"{way}_mrr"] = mean_reciprocal_rank(ranks)
    return figures


def unpack(folder: Path) -> None:
    """Bring Debian's package into `folder`.

    Raises:
        GraftError: apt or dpkg failed.
    """
    for argv in (["apt-get", "download", PACKAGE], ["dpkg", "-x", f"{PACKAGE}.deb", "."]):
        try:
            subprocess.run(argv, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        except (OSError, subprocess.CalledProcessError) as error:
            raise GraftError(f"{argv[0]}: {error}; give a folder with {PACKAGE} unpacked instead") from error
        for file in folder.glob(f"{PACKAGE}_*.deb"):
            file.rename(folder / f"{PACKAGE}.deb")


def main() -> None:
    """Print one JSON object a line: the figures of each way to keep headings, then all of them."""
    with tempfile.TemporaryDirectory(prefix="graft-faq-") as temporary:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else temporary)
        if folder == Path(temporary):
            unpack(folder)
        faq = list(read_faq(folder))
    embedder = Embedder(BUILT_EMBEDDING, threads=2)
    found = {}
    for name, kept in KEPT.items():
        found[name] = measure(faq, kept, embedder)
        print(name, json.dumps(found[name]), flush=True)
    print(json.dumps({"questions": len(faq), "k": K, **found}))


if __name__ == "__main__":
    run_main(main)
