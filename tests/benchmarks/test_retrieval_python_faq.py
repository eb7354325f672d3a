"""Tests of the retrieval benchmark on Python's FAQ: it reads questions with their text from Sphinx's pages."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.retrieval_python_faq import PAGES, read_faq
from tasks.core.errors import GraftError
from tasks.retrieval.documents import DocumentSection

PAGE = """<html><body><nav><h3>Contents</h3><p>Not this.</p></nav>
<section id="faq"><h1><a href="#x">A FAQ</a><a class="headerlink" href="#faq">¶</a></h1>
<nav><ul><li><p>Nor this.</p></li></ul></nav>
<section id="group"><h2>Group<a class="headerlink" href="#group">¶</a></h2>
<section id="why"><h3>Why <em>is</em>
it so?<a class="headerlink" href="#why">¶</a></h3>
<p>Because <img src="a.png"> of
this.</p><ul><li><p>One.</p></li></ul><div class="highlight"><pre><span></span>a = 1
b = 2
</pre></div></section>
<section id="empty"><h3>Empty</h3></section>
</section></section><p>After.</p></body></html>"""


def test_questions_are_the_innermost_sections_with_text(tmp_path: Path) -> None:
    (tmp_path / PAGES).mkdir(parents=True)
    (tmp_path / PAGES / "general.html").write_text(PAGE, encoding="utf-8")
    (tmp_path / PAGES / "index.html").write_text(PAGE, encoding="utf-8")
    text = "Because  of this.\n\nOne.\n\na = 1\nb = 2"
    assert list(read_faq(tmp_path)) == [("general#why", DocumentSection(("A FAQ", "Group", "Why is it so?"), text))]


def test_a_folder_without_the_pages_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GraftError, match=r"unpack Debian's python3\.11-doc there"):
        list(read_faq(tmp_path))
