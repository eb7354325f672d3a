"""Admission of a model package: the checks that a server makes before the package takes traffic.

A package describes itself; the server decides by its own `params.yaml` (section `admission`) which packages
it serves. No model is loaded here: the probes (`tasks/engine/probes.py`) check the answers of an opened
engine, and the gate measures how good they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tasks.core.errors import GraftError
from tasks.core.settings import AdmissionSettings, EngineName
from tasks.model_package.constraints import context_limit
from tasks.model_package.manifest import ADAPTER, EXPORTED, PROMPT, Manifest, verify_package
from tasks.prompt.encoding import Prompt

_TRAINED = f"{ADAPTER}/adapter_model.safetensors"
_READS: dict[EngineName, str] = {
    "openvino": f"{EXPORTED}/openvino_model.xml",
    "transformers": _TRAINED,
    "vllm": _TRAINED,
}
"""The file of a package that each engine needs to serve it."""


def admit(digest: str, package: Path, base: Path, settings: AdmissionSettings) -> Manifest:
    """Check that a package may take traffic.

    Args:
        digest: the digest under which the package was published.
        package: its folder.
        base: the folder of the base model that it will be served on.
        settings: the server's own, never the package's.

    Returns:
        The package's manifest.

    Raises:
        GraftError: it may not, for the first of these reasons: digest, base or a file differs from what was
            packaged; tokenizer or prompt differs from what it was trained with; this server runs no engine for
            its format; a license is not on the server's list; its context is longer than its base supports.
    """
    manifest = verify_package(package, base, digest)
    Prompt.load(package / PROMPT, base).require(manifest.prompt, package)
    _check_engine(manifest, package, settings)
    sheet = manifest.constraints
    licenses = (("base", manifest.base.licence), ("base", sheet.base_licence), ("data", sheet.data_licence))
    check_licenses(licenses, settings, str(package))
    _check_context(manifest, package, base)
    return manifest


def check_licenses(licenses: Iterable[tuple[str, str]], settings: AdmissionSettings, where: str) -> None:
    """Check licenses against the server's list.

    Args:
        licenses: pairs of subject (`base` or `data`) and SPDX identifier.
        settings: has the list.
        where: the owner of the licenses, for the error.

    Raises:
        GraftError: one is not on the list.
    """
    for subject, license in licenses:
        if license not in settings.licenses:
            raise GraftError(
                f"{where}: the license of its {subject} is {license!r}, which this server does not serve; its list is "
                f"{', '.join(settings.licenses)} (params.yaml, admission.licenses)"
            )


def _check_engine(manifest: Manifest, package: Path, settings: AdmissionSettings) -> None:
    name = manifest.engine.name
    if name not in settings.engines:
        raise GraftError(
            f"{package}: made for the engine {name}, which this server does not run; its list is "
            f"{', '.join(settings.engines)} (params.yaml, admission.engines)"
        )
    if _READS[name] not in manifest.files:
        raise GraftError(
            f"{package}: made for the engine {name}, which reads {_READS[name]}, and that file is missing; "
            "package it again"
        )


def _check_context(manifest: Manifest, package: Path, base: Path) -> None:
    tokens, limit = manifest.max_prompt_tokens + manifest.engine.max_new_tokens, context_limit(base)
    if limit is not None and tokens > limit:
        raise GraftError(
            f"{package}: prompts of {manifest.max_prompt_tokens} and answers of {manifest.engine.max_new_tokens} "
            f"tokens make {tokens}, and its base was made for {limit}; lower prompt.max_prompt_tokens or "
            "engine.max_new_tokens in params.yaml and package it again"
        )
