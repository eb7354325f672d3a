"""Presidio finds what this repository's recognizers find, offline, and is not imported until it is asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

from deployments.app.guardrails import presidio
from tasks.core.errors import GraftError
from tasks.text.pii import FINDERS, find_spans

TEXTS = (
    "mail jo@example.org or ring 07911 123456 about HL-20931",
    "card 4111 1111 1111 1111, account GB82 WEST 1234 5698 7654 32 PLEASE, key sk-9fA3kLmQ2zXv7TbR1cWy",
    "4111 1111 1111 1111 07911 123456 GB82WEST12345698765432 SW1A 1AA",
    "£12.50 on 2026-04-17, Jane in London",
    "",
)


def test_it_finds_the_same_as_without_it() -> None:
    pytest.importorskip("presidio_analyzer", reason="the extra `presidio` is not installed")
    detect = presidio.presidio_detector(frozenset(FINDERS))
    assert [tuple(detect(text)) for text in TEXTS] == [find_spans(text, frozenset(FINDERS)) for text in TEXTS]


def test_its_absence_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presidio, "find_spec", lambda name: None)
    with pytest.raises(GraftError, match=r"install -e '\.\[presidio\]'"):
        presidio.presidio_detector(frozenset(FINDERS))


def test_the_checks_do_not_import_it_unless_it_is_chosen() -> None:
    program = "import deployments.app.guardrails.configured, sys; print(*{n.split('.')[0] for n in sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"presidio_analyzer", "spacy", "torch", "transformers", "sklearn"} & set(done.stdout.split())
