"""Hostile text: records with markup in every field, and the markup that a rendered page then has."""

from __future__ import annotations

import dataclasses
from html.parser import HTMLParser
from typing import Any, Literal, TypeVar, get_origin

import markdown
from pydantic import BaseModel

HOSTILE = "a</script><script>alert(1)</script><img src=x onerror=alert(2)>`b`|c\n\n# d [e](javascript:f) **g** \x1b[31m"
_ACTIVE = {"script", "iframe", "object", "embed", "form", "input", "svg", "style", "link", "base", "a", "img"}

R = TypeVar("R")


def poisoned(value: R) -> R:
    """A record with `HOSTILE` for every text in it, however deep; numbers, digests and fixed choices stay."""
    result: Any = value
    if isinstance(value, str):
        result = value if _is_hex(value) else HOSTILE
    elif isinstance(value, BaseModel):
        free = [name for name, field in type(value).model_fields.items() if get_origin(field.annotation) is not Literal]
        result = value.model_copy(update={name: poisoned(getattr(value, name)) for name in free})
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: poisoned(getattr(value, field.name)) for field in dataclasses.fields(value)}
        result = dataclasses.replace(value, **fields)
    elif isinstance(value, dict):
        result = {key: poisoned(item) for key, item in value.items()}  # keys are names that code looks up
    elif isinstance(value, list | tuple):
        result = type(value)(map(poisoned, value))
    return result  # type: ignore[no-any-return]


def _is_hex(text: str) -> bool:
    return len(text) >= 12 and not text.strip("0123456789abcdef")


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def active_tags(html: str) -> list[tuple[str, dict[str, str | None]]]:
    """The elements of a page that load, run or link something, and those with an event handler."""
    parser = _Tags()
    parser.feed(html)
    return [
        (tag, attrs) for tag, attrs in parser.found if tag in _ACTIVE or any(name.startswith("on") for name in attrs)
    ]


def rendered(page: str) -> str:
    """A Markdown page as HTML, by a renderer that passes HTML through."""
    return markdown.markdown(page, extensions=["tables"])


def headings(page: str) -> list[str]:
    """The lines of a Markdown page that are headings."""
    return [line for line in page.splitlines() if line.startswith("#")]
