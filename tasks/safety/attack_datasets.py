"""Labelled attacks and harmless texts from published sets, checked and freed of repeats.

The sets are named in `params.yaml` (`prompt_injection.sources`) with licence and sha256. What a set calls
an attack may be an odd question, or harmful without being aimed at instructions; `leave_out` names
the parts that were read and left out for that. Nothing is learnt here.
"""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.core.errors import GraftError
from tasks.core.records import Message
from tasks.core.settings import AttackSource
from tasks.model_package.downloads import fetch_checked
from tasks.text.duplicates import find_duplicates

_SPLIT_SHARE = 5
"""Of a set that has no split of its own, one text in so many is held out, chosen by its checksum."""


@dataclass(frozen=True)
class LabeledText:
    """A text, whether it is an attack, which set it is from, and whether it is kept from training."""

    text: str
    attack: bool
    source: str
    held_out: bool


def fetch_attacks(sources: Mapping[str, AttackSource], leave_out: frozenset[str]) -> list[LabeledText]:
    """The texts of all sets, in order.

    Raises:
        GraftError: a set cannot be had, is not the one that was named, or has no texts.
    """
    found: list[LabeledText] = []
    for name, source in sources.items():
        with tempfile.TemporaryDirectory(prefix="graft-attacks-") as temporary:
            path = fetch_checked(
                source.file, source.file_sha256, f"prompt_injection.sources.{name}.file", Path(temporary)
            )
            found += [
                LabeledText(
                    text, attack, source.set, source.use == "held_out" or (source.use == "split" and _kept(text))
                )
                for text, attack in _read(path, source, leave_out)
            ]
    return found


def _kept(text: str) -> bool:
    return zlib.crc32(text.encode()) % _SPLIT_SHARE == 0


def _read(path: Path, source: AttackSource, leave_out: frozenset[str]) -> Iterator[tuple[str, bool]]:
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
        if text and row.get("source") not in leave_out:
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
