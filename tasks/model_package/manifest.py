"""The manifest of a model package: its files, its origin and its intended use.

A package is an immutable folder. Its `manifest.json` lists the sha256 of every other file, and the
sha256 of the manifest's own bytes is the package's digest: its name everywhere. `provenance.json`
(who built it, when, in which run) lies beside it and is excluded from the digest, so that the same content
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
"""The folder of merged weights for the engine `openvino`; packages for other engines have none."""


class BaseModelInfo(Record):
    """The base model's origin, license and files; it lies as `base.json` in the base model's folder."""

    source: str
    """The source as in `params.yaml`, `base.source`."""
    sha256: str
    """sha256 of the source: of its file, or of the list of its files."""
    licence: str
    """License, an SPDX identifier."""
    architecture: str
    """Name of the model class in transformers."""
    parameters: int
    """Number of weights."""
    files: dict[str, str]
    """sha256 of each file in the base model's folder except `base.json`, by relative path."""


class Fidelity(Record):
    """Quantization loss of exported weights against the float32 model that they were made from."""

    rows: int
    """Eval conversations compared."""
    tokens: int
    """Tokens of their assistant turns."""
    perplexity: float
    """Perplexity of the assistant turns by the exported weights."""
    float32_perplexity: float
    """Perplexity of the assistant turns by the float32 model."""
    greedy_agreement: float
    """Fraction of the tokens for which both models choose the same next token, 0 to 1."""


def _stored(retrieval: RetrievalSettings) -> dict[str, Any]:
    """As manifests hold it: a digest covers the names too, so they stay those of version 0.1."""
    return old_names("retrieval", retrieval.model_dump())


def _from_stored(retrieval: Any) -> Any:
    """The inverse of `_stored`; settings that are not read from a file pass."""
    return new_names("retrieval", retrieval) if isinstance(retrieval, dict) else retrieval


StoredRetrieval = Annotated[RetrievalSettings, BeforeValidator(_from_stored), PlainSerializer(_stored)]


class Grounding(Record):
    """The grounding of a package's conversations: the index, its retrieval model, and the search settings."""

    index: str
    """Digest of the index."""
    embedding: str
    """Digest of the retrieval model."""
    passages: int
    """Number of best passages for the customer's last turn, which the model may look up."""
    turns: int
    """Number of the customer's last turns that the answer's grounding covers."""
    known: int
    """Number of best passages for each of these turns on which an answer may rely."""
    retrieval: StoredRetrieval
    """Settings of the search."""


class Manifest(Record):
    """The content of `manifest.json`: all that a server needs to serve a package, and a person to trust it."""

    name: str
    """Name of the package, from `params.yaml`; the digest identifies it."""
    base: BaseModelInfo
    """The base model that the adapter was trained on."""
    prompt: dict[str, str]
    """The hashes of `Prompt.identity`: tokenizer, template and prompt."""
    engine: EngineSettings
    """The engine that evaluates and serves the package, with its settings."""
    max_prompt_tokens: int
    """The longest prompt that is answered, in tokens."""
    data: dict[str, Any]
    """Source of the training data, its rows by label, and the sha256 of each split."""
    params: dict[str, Any]
    """The sections `prepare` and `train` of `params.yaml`."""
    constraints: Constraints
    """The constraint sheet."""
    refusal_phrases: tuple[str, ...]
    """The contract's phrases by which refusals are recognized."""
    fidelity: Fidelity | None = None
    """Quantization loss of exported weights; None if the engine serves the adapter as trained."""
    grounding: Grounding | None = None
    """The grounding of the conversations; None if they are not grounded."""
    files: dict[str, str]
    """sha256 of each file in the package except `manifest.json` and `provenance.json`, by relative path."""


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
        GraftError: the folder has no manifest, or it cannot be read.
    """
    package_digest(package)
    try:
        return Manifest.model_validate_json((package / MANIFEST).read_bytes())
    except ValueError as error:
        raise GraftError(f"{package / MANIFEST}: not a manifest that this version can read: {error}") from error


def verify_package(package: Path, base: Path, digest: str | None = None) -> Manifest:
    """Check that a package and its base are byte for byte what the manifest says.

    Raises:
        GraftError: the digest or the base differs, or a file is missing, added or changed.
    """
    manifest = read_manifest(package)
    if digest is not None and package_digest(package) != digest:
        raise GraftError(f"{package}: the manifest's digest is {package_digest(package)}, expected {digest}")
    _compare_base(manifest.base, base)
    _compare(package, manifest.files, sha256_tree(package, frozenset({MANIFEST, PROVENANCE})))
    _compare(base, manifest.base.files, sha256_tree(base, frozenset({BASE})))
    return manifest


def _compare_base(expected: BaseModelInfo, base: Path) -> None:
    """Compare the base's identity before its files, because a changed file would not explain the reason."""
    try:
        actual = BaseModelInfo.model_validate_json((base / BASE).read_bytes())
    except (OSError, ValueError) as error:
        raise GraftError(f"{base / BASE}: cannot be read as a description of the base model: {error}") from error
    for part in ("sha256", "architecture"):
        if getattr(actual, part) != getattr(expected, part):
            raise GraftError(
                f"{base}: this base's {part} is {getattr(actual, part)}, and the package was made on one whose "
                f"{part} is {getattr(expected, part)}; it is not used on another"
            )


def _compare(folder: Path, expected: dict[str, str], actual: dict[str, str]) -> None:
    for name in sorted(expected.keys() | actual.keys()):
        if expected.get(name) != actual.get(name):
            how = "missing" if name not in actual else "not listed" if name not in expected else "changed"
            raise GraftError(f"{folder / name}: {how}; this is not what was packaged, so it is not used")


GROUNDING = "grounding.json"


def read_grounding(folder: Path) -> Grounding | None:
    """The grounding of the examples in `folder`; None if they are not grounded."""
    path = folder / GROUNDING
    return Grounding.model_validate_json(path.read_bytes()) if path.is_file() else None
