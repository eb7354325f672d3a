"""The runner of tutorials on small pages: it sees what a page claims, and fails where the claim is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.support.tutorial import Tutorial, missing_lines

PAGE = """
```console
$ . .venv/bin/activate
$ cat list.txt
first 2 of 30 rows
$ until [ -e go ]; do sleep 0.1; done; echo went on; \\
  echo to its end
```
```console title="second terminal"
$ NAME=$(cat settings.yaml | head -1)
$ echo "$NAME at http://127.0.0.1:4200"; touch go
a: 2 at http://127.0.0.1:9999
```
```console
went…on
to its end
$ ls absent
error: …
```
"""
FILES = '```text title="list.txt"\nfirst 1 of 20 rows\n```\n```yaml title="settings.yaml"\na: 2\nb: {d: [4]}\n```\n'


def tutorial(folder: Path, page: str) -> Tutorial:
    (folder / "settings.yaml").write_text("a: 1\nb:\n  c: 3\n  d: [1, 2]\n", encoding="utf-8")
    (folder / "page.md").write_text(page, encoding="utf-8")
    ls = {"ls absent": "echo 'error: none'; false"}
    return Tutorial(
        folder / "page.md", folder, {"127.0.0.1:4200": "127.0.0.1:9999"}, home=folder, instead=ls, limit_s=20
    )


@pytest.mark.parametrize("more", ["went…on\nto its end\n", ""])
def test_a_page_is_followed_in_its_terminals(tmp_path: Path, more: str) -> None:
    outputs = tutorial(tmp_path, FILES + PAGE.replace("went…on\nto its end\n", more)).run()
    assert "first 1 of 20 rows" in outputs["cat list.txt"]
    assert yaml.safe_load((tmp_path / "settings.yaml").read_text()) == {"a": 2, "b": {"c": 3, "d": [4]}}


@pytest.mark.parametrize(
    ("true", "wrong"),
    [
        ("first 2 of 30 rows", "second 2 of 30 rows"),
        ("to its end\n$", "to another end\n$"),
        ("error: …\n", "none\n"),
        ("echo went on", "false"),
        ("a: 2 at", "b: 2 at"),
        ("$ ls absent\nerror: …\n", ""),
    ],
)
def test_a_page_that_claims_something_else_fails(tmp_path: Path, true: str, wrong: str) -> None:
    assert true in PAGE
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        tutorial(tmp_path, FILES + PAGE.replace(true, wrong)).run()


@pytest.mark.parametrize(
    ("shown", "output", "found"),
    [
        ("quality 0.431 on 154 rows", "evaluate:  quality 0.074 on 8 rows", True),
        ("package b4466db4ee0d…done", "package 7f00aa11bb22 is done", True),
        ("stopped ray", "stopped prefect", False),
        ("a … b", "b a", False),
        ("… ", "anything", True),
        ("now [1] (2)", "now [7] (8)", True),
    ],
)
def test_shown_lines_are_compared_without_numbers_and_elisions(shown: str, output: str, found: bool) -> None:
    assert (missing_lines([shown], [output]) == []) == found
