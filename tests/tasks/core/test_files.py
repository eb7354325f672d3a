"""Atomic file writes: a file is whole or absent."""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path

import pytest

from tasks.core.files import new_folder, sha256_file, sha256_tree, write_json, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_tree_lists_every_file_by_its_relative_path(tmp_path: Path) -> None:
    write_text(tmp_path / "b/c.txt", "one")
    write_text(tmp_path / "a.txt", "two")
    write_text(tmp_path / "skipped.txt", "three")
    tree = sha256_tree(tmp_path, frozenset({"skipped.txt"}))
    assert tree == {"a.txt": hashlib.sha256(b"two").hexdigest(), "b/c.txt": hashlib.sha256(b"one").hexdigest()}
    assert list(tree) == ["a.txt", "b/c.txt"]
    assert sha256_file(tmp_path / "a.txt") == tree["a.txt"]


def test_write_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new/page.txt"
    write_text(path, "old, and longer")
    write_text(path, "naïve")
    assert path.read_bytes() == "naïve".encode()
    assert names(path.parent) == ["page.txt"]


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    texts = ["a" * 300_000, "b" * 300_000]
    write_text(path, texts[0])
    stop = threading.Event()
    seen: set[str] = set()

    def read() -> None:
        while not stop.is_set():
            seen.add(path.read_text(encoding="utf-8"))

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(200):
        write_text(path, texts[turn % 2])
    stop.set()
    reader.join()
    assert seen <= set(texts)


def test_threads_that_write_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = tmp_path / "file"
    failed: list[Exception] = []

    def write(letter: str) -> None:
        try:
            for _ in range(100):
                write_text(path, letter * 50_000)
        except OSError as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert path.read_text(encoding="utf-8") in {letter * 50_000 for letter in "abcd"}
    assert names(tmp_path) == ["file"]


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"a": "é"})
    circular: dict[str, object] = {}
    circular["self"] = circular
    with pytest.raises(ValueError):
        write_json(path, circular)
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": "é"}
    assert names(tmp_path) == ["value.json"]


def test_new_folder_appears_when_its_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "deep/out"
    with new_folder(target) as folder:
        write_text(folder / "a.txt", "a")
        assert not target.exists()
    assert names(target) == ["a.txt"]
    assert names(target.parent) == ["out"]


def test_new_folder_replaces_the_old_one_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "out"
    for name in ("old.txt", "new.txt"):
        with new_folder(target) as folder:
            write_text(folder / name, name)
    assert names(target) == ["new.txt"]


def test_new_folder_that_fails_leaves_the_old_one_and_no_rest(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with new_folder(target) as folder:
        write_text(folder / "old.txt", "old")
    with pytest.raises(KeyboardInterrupt), new_folder(target) as folder:
        write_text(folder / "half.txt", "half")
        raise KeyboardInterrupt
    assert names(target) == ["old.txt"]
    assert names(tmp_path) == ["out"]
