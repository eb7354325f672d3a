"""The documentation site: it builds strictly, every link and anchor is there, and no page asks another host.

Also covers `mkdocs.yml`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.code_structure import fail_if, write_tree
from tests.support.page_requests import addresses_in_scripts, read_page, requests_elsewhere

ROOT = Path(__file__).parents[2]

# The addresses in the scripts of mkdocs-material, each with what makes it ask them: an element of a class, or a
# `data-md-component`. None: only shown to a reader of the script.
ASKED_FOR = {
    "https://unpkg.com/mermaid@11/dist/mermaid.min.js": "mermaid",
    "https://api.github.com/repos/${e}/${t}": "source",
    "https://api.github.com/users/${e}": "source",
    "https://${e}/api/v4/projects/${encodeURIComponent": "source",
    # Asked by browsers without ResizeObserver, which all have had since 2020.
    "https://unpkg.com/resize-observer-polyfill": None,
    "https://clipboardjs.com/": None,
    "https://bit.ly/2s3ChXG": None,
    "http://lunrjs.com": None,
    "http://tartarus.org/~martin/PorterStemmer/js.txt": None,
}


def build(config: Path, target: Path) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(config), "-d", str(target)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    target = tmp_path_factory.mktemp("site")
    done = build(ROOT / "mkdocs.yml", target)
    assert done.returncode == 0, f"make docs fails:\n{done.stdout}{done.stderr}"
    return target


def test_every_page_of_docs_is_built(site: Path) -> None:
    pages = {path.relative_to(ROOT / "docs").with_suffix("") for path in (ROOT / "docs").rglob("*.md")}
    built = {path.relative_to(site).with_suffix("") for path in site.rglob("*.html")}
    assert pages <= built
    assert not list(site.rglob("*.py")), "the generators are no part of the site"


def test_no_page_asks_another_host(site: Path) -> None:
    fail_if(list(requests_elsewhere(site)), "a reader without a network sees these pages incomplete:")


def test_scripts_ask_another_host_only_for_elements_that_no_page_has(site: Path) -> None:
    unknown = addresses_in_scripts(site) - ASKED_FOR.keys()
    fail_if(sorted(unknown), "find out when the theme's script asks these, and add them to ASKED_FOR:")
    elements = {None, *ASKED_FOR.values()} - {None}
    found = [
        f"{path.relative_to(site)}: {element}"
        for path in sorted(site.rglob("*.html"))
        for element in elements.intersection(*[set().union(*read_page(path).elements)])
    ]
    fail_if(found, "the theme's script would ask another host because of these elements:")


def test_pictures_describe_themselves(site: Path) -> None:
    missing = [
        f"{path.relative_to(site)}: <{tag}>"
        for path in sorted(site.rglob("*.svg"))
        for tag in ("title", "desc")
        if f"<{tag}" not in path.read_text(encoding="utf-8")
    ]
    fail_if(missing, "a screen reader reads a picture's title and description:")


SEEDED = {
    "a.html": '<link rel="canonical" href="https://one.example/"><a href="https://two.example/">a link</a>'
    '<link rel="icon" href="icon.png"><script src="js/a.js"></script><img src="data:image/png;base64,AA==">',
    "link.html": '<link rel="preload stylesheet" href="https://fonts.example/a.css">',
    "script.html": '<script src="//cdn.example/a.js"></script>',
    "inline.html": "<script>fetch('https://api.example/v1')</script><script>var a = 1 // comment</script>",
    "set.html": '<img srcset="a.png 1x, https://img.example/b.png 2x">',
    "frame.html": '<iframe src="HTTPS://frame.example/"></iframe>',
    "style.html": "<style>@import 'https://css.example/a.css';</style><p style=\"background: url(//bg.example/a)\">",
    "config.html": '<script id="__config" type="application/json">{"search": "https://s.example/w.js"}</script>',
    "a.css": "@font-face { src: url('https://font.example/a.woff2') } p { background: url(a.png) }",
    "a.svg": '<?xml-stylesheet href="https://x.example/a.css"?><svg xmlns="http://www.w3.org/2000/svg">'
    '<image href="https://y.example/a.png"/><a href="https://z.example/"></a></svg>',
    "js/a.js": 'load("https://late.example/a.js")',
}


def test_requests_to_other_hosts_are_found(tmp_path: Path) -> None:
    write_tree(tmp_path, SEEDED)
    assert [line.replace("https:", "").replace("HTTPS:", "") for line in requests_elsewhere(tmp_path)] == [
        "a.css: //font.example/a.woff2",
        "a.svg: //x.example/a.css",
        "a.svg: //y.example/a.png",
        "config.html: //s.example/w.js",
        "frame.html: //frame.example/",
        "inline.html: //api.example/v1",
        "link.html: //fonts.example/a.css",
        "script.html: //cdn.example/a.js",
        "set.html: //img.example/b.png",
        "style.html: //css.example/a.css",
        "style.html: //bg.example/a",
    ]
    assert addresses_in_scripts(tmp_path) == {"https://late.example/a.js"}


def test_links_to_nowhere_fail_the_build(tmp_path: Path) -> None:
    config = f"INHERIT: {ROOT}/mkdocs.yml\ndocs_dir: docs\nhooks: []\nplugins: []\nwatch: []\nnav: [index.md]\n"
    page = "# Page\n\n[gone](gone.md) [anchor](#no-anchor) [absolute](/top.md) [file](../params.yaml)\n"
    write_tree(tmp_path, {"mkdocs.yml": config, "docs/index.md": page, "docs/lost.md": "# In no navigation\n"})
    done = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert done.returncode != 0
    places = ("gone.md", "#no-anchor", "/top.md", "params.yaml", "lost.md")
    assert [place for place in places if place not in done.stdout + done.stderr] == []


def test_make_docs_builds_strictly() -> None:
    """With `--quiet`, mkdocs counts no warning, so that `--strict` would let everything pass."""
    recipe = re.search(r"^docs:.*\n\t(.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert recipe
    assert recipe[1].endswith("mkdocs build --strict")
