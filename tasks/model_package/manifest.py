"""The manifest of a model package: what is inside, made from what, meant for what.

A package is an immutable folder. Its `manifest.json` lists the sha256 of every other file, and the
sha256 of the manifest's own bytes is the package's digest: its name everywhere. `provenance.json`
(who built it, when, in which run) lies beside it and outside the digest, so that the same content
has the same name wherever it was built.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

from tasks.core.errors import GraftError
from tasks.core.files import sha256_file, sha256_tree
from tasks.core.records import Record
from tasks.core.renamed_keys import new_names, old_names
from tasks.core.settings import EngineSettings, RetrievalSettings
from tasks.model_package.constraints import Constraints

MANIFEST = "manifest.json"
BASE = "base.json"
PROVENANCE = "provenance.json"
ADAPTER = "adapter"
PROMPT = "prompt"
EXPORTED = "openvino"
"""Merged weights as the engine `openvino` reads them; in a package that other engines serve there are none."""


class BaseModelInfo(Record):
    """The base model: where it came from, under which licence, and its files' sha256. In its folder: `base.json`."""

    source: str
    sha256: str
    licence: str
    architecture: str
    parameters: int
    files: dict[str, str]


class Fidelity(Record):
    """What exported weights lost against the float32 model that they were made from, on eval conversations.

    Perplexity of assistant turns by both, and the share of their tokens where both would choose the
    same next one.
    """

    rows: int
    tokens: int
    perplexity: float
    float32_perplexity: float
    greedy_agreement: float


def _stored(retrieval: RetrievalSettings) -> dict[str, Any]:
    """As manifests hold it: a digest covers the names too, so they stay those of version 0.1."""
    return old_names("retrieval", retrieval.model_dump())


def _from_stored(retrieval: Any) -> Any:
    """The inverse of `_stored`; settings that are not read from a file pass."""
    return new_names("retrieval", retrieval) if isinstance(retrieval, dict) else retrieval


StoredRetrieval = Annotated[RetrievalSettings, BeforeValidator(_from_stored), PlainSerializer(_stored)]


class Grounding(Record):
    """What its conversations are grounded in: the index's digest and its retrieval model's, and how it is searched.

    The model may look up the best `passages` for the customer's last turn; what is said may lean on
    the best `known` for each of the last `turns`.
    """

    index: str
    embedding: str
    passages: int
    turns: int
    known: int
    retrieval: StoredRetrieval


class Manifest(Record):
    """Everything a server must know to serve a package, and a person to trust it."""

    name: str
    base: BaseModelInfo
    prompt: dict[str, str]
    engine: EngineSettings
    max_prompt_tokens: int
    data: dict[str, Any]
    params: dict[str, Any]
    constraints: Constraints
    refusal_phrases: tuple[str, ...]
    fidelity: Fidelity | None = None
    grounding: Grounding | None = None
    files: dict[str, str]


def package_digest(package: Path) -> str:
    """The package's name: sha256 of its manifest, in hexadecimal.

    Raises:
        GraftError: the folder has no manifest.
    """
    path = package / MANIFEST
    if not path.is_file():
        raise GraftError(f"{package}: not a model package (no {MANIFEST})")
    return sha256_file(path)


def read_manifest(package: Path) -> Manifest:
    """The manifest of a package.

    Raises:
        GraftError: there is none, or it cannot be read.
    """
    package_digest(package)
    try:
        return Manifest.model_validate_json((package / MANIFEST).read_bytes())
    except ValueError as error:
        raise GraftError(f"{package / MANIFEST}: not a manifest this version can read: {error}") from error


def verify_package(package: Path, base: Path, digest: str | None = None) -> Manifest:
    """Check that a package and its base are byte for byte what the manifest says.

    Raises:
        GraftError: the digest or the base is another, or a file is missing, added or changed.
    """
    manifest = read_manifest(package)
    if digest is not None and package_digest(package) != digest:
        raise GraftError(f"{package}: the manifest's digest is {package_digest(package)}, expected {digest}")
    _compare_base(manifest.base, base)
    _compare(package, manifest.files, sha256_tree(package, frozenset({MANIFEST, PROVENANCE})))
    _compare(base, manifest.base.files, sha256_tree(base, frozenset({BASE})))
    return manifest


def _compare_base(expected: BaseModelInfo, base: Path) -> None:
    """Said before its files are compared: that one of them has changed would not say why."""
    try:
        found = BaseModelInfo.model_validate_json((base / BASE).read_bytes())
    except (OSError, ValueError) as error:
        raise GraftError(f"{base / BASE}: says nothing of the base that can be read: {error}") from error
    for part in ("sha256", "architecture"):
        if getattr(found, part) != getattr(expected, part):
            raise GraftError(
                f"{base}: this base's {part} is {getattr(found, part)}, and the package was made on one whose "
                f"{part} is {getattr(expected, part)}; it is not used on another"
            )


def _compare(folder: Path, expected: dict[str, str], found: dict[str, str]) -> None:
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            how = "missing" if name not in found else "not listed" if name not in expected else "changed"
            raise GraftError(f"{folder / name}: {how}; this is not what was packaged, so it is not used")


GROUNDING = "grounding.json"


def read_grounding(folder: Path) -> Grounding | None:
    """What the examples in `folder` are grounded in; None if they are not."""
    path = folder / GROUNDING
    return Grounding.model_validate_json(path.read_bytes()) if path.is_file() else None
