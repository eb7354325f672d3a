"""The addresses that a browser asks by itself when it shows a built site: scripts, styles, pictures, frames, fonts.

An ordinary link is no request. Scripts are not run: the addresses in their text are listed for a person to judge.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

# The `rel` of a <link> that is fetched, or for which a connection is opened.
FETCHED_RELATIONS = {
    "stylesheet",
    "icon",
    "apple-touch-icon",
    "apple-touch-icon-precomposed",
    "mask-icon",
    "manifest",
    "preload",
    "prefetch",
    "modulepreload",
    "preconnect",
    "dns-prefetch",
    "prerender",
}
FETCHED_ATTRIBUTES = {
    "src": None,  # of any element
    "srcset": None,
    "imagesrcset": None,
    "poster": None,
    "background": None,
    "data": {"object"},
    "href": {"base", "image", "use", "feimage", "script"},  # of SVG, except <a>; and <base> moves every other address
    "xlink:href": {"image", "use", "feimage", "script"},
}
CSS_ADDRESS = re.compile(r"""url\(\s*["']?([^"')\s]+)|@import\s+["']([^"']+)""")
ABSOLUTE = re.compile(r"^(?:https?:|wss?:)?//", re.IGNORECASE)
IN_SCRIPT = re.compile(r"""(?:https?|wss?)://[^\s"'`\\<>()]+|(?<=["'`])//[\w-]+\.[\w.-]+[^\s"'`\\<>()]*""")
FETCHED_CONFIGURATION = "__config"
"""The id of the element in which mkdocs-material tells its script which files to fetch."""


class PageReader(HTMLParser):
    """Collects what a page, or an SVG picture, fetches.

    Attributes:
        requests: the addresses that it fetches by itself.
        scripts: the text of scripts in the page.
        elements: for each element, its classes and its `data-md-component`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[str] = []
        self.scripts: list[str] = []
        self.elements: list[set[str]] = []
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.elements.append({*given.get("class", "").split(), given.get("data-md-component", "")})
        self.requests += css_addresses(given.get("style", ""))
        if tag == "link" and FETCHED_RELATIONS & set(given.get("rel", "").lower().split()):
            self.requests.append(given.get("href", ""))
        if tag == "meta" and given.get("http-equiv", "").lower() == "refresh":
            self.requests.append(given.get("content", "").partition("=")[2])
        for name, value in given.items():
            if name in FETCHED_ATTRIBUTES and tag in (FETCHED_ATTRIBUTES[name] or {tag}):
                self.requests += [part.split()[0] for part in value.split(",") if part.split()]
        if tag in {"script", "style"}:
            self._inside = given.get("id") if given.get("id") == FETCHED_CONFIGURATION else tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = "" if tag in {"script", "style"} else self._inside

    def handle_data(self, data: str) -> None:
        if self._inside == "style":
            self.requests += css_addresses(data)
        elif self._inside == FETCHED_CONFIGURATION:
            self.requests += texts(json.loads(data))
        elif self._inside == "script":
            self.scripts.append(data)

    def handle_pi(self, data: str) -> None:
        """`<?xml-stylesheet href="…"?>` of an SVG picture."""
        self.requests += re.findall(r'href="([^"]+)"', data)


def css_addresses(css: str) -> list[str]:
    """The addresses in `url(…)` and `@import`."""
    return [first or second for first, second in CSS_ADDRESS.findall(css)]


def texts(value: object) -> list[str]:
    """All texts in a JSON value, at any depth."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [text for one in value for text in texts(one)]
    return [value] if isinstance(value, str) else []


def read_page(path: Path) -> PageReader:
    reader = PageReader()
    reader.feed(path.read_text(encoding="utf-8"))
    reader.close()
    return reader


def requests_elsewhere(site: Path) -> Iterator[str]:
    """Every request to another host, with the file that makes it; scripts in pages are searched for any address."""
    for path in sorted(site.rglob("*")):
        name = path.relative_to(site).as_posix()
        if path.suffix in {".html", ".svg"}:
            page = read_page(path)
            yield from (f"{name}: {address}" for address in page.requests if ABSOLUTE.match(address.strip()))
            yield from (f"{name}: {address}" for text in page.scripts for address in IN_SCRIPT.findall(text))
        elif path.suffix == ".css":
            found = css_addresses(path.read_text(encoding="utf-8"))
            yield from (f"{name}: {address}" for address in found if ABSOLUTE.match(address))


def addresses_in_scripts(site: Path) -> set[str]:
    """The absolute addresses in the script files that pages load, and in the worker that their script starts."""
    loaded = {
        site / address[1:] if address.startswith("/") else (path.parent / address).resolve()
        for path in site.rglob("*.html")
        for address in read_page(path).requests
        if address.endswith(".js") and not ABSOLUTE.match(address)
    }
    return {address for path in loaded for address in IN_SCRIPT.findall(path.read_text(encoding="utf-8"))}
