"""Admission: what a server asks of a package before the package takes traffic.

A package says what it is; the server decides by its own `params.yaml` (section `admission`) what may
be served. Nothing is loaded here: what an opened engine answers is the probes' question
(`tasks/engine/probes.py`), and how good the answers are is the gate's.
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
"""Without which an engine has nothing of the package to serve."""


def admit(digest: str, package: Path, base: Path, settings: AdmissionSettings) -> Manifest:
    """The manifest of a package that may take traffic.

    Args:
        digest: what the package was published as.
        package: its folder.
        base: the folder of the base model that it will be served on.
        settings: the server's own, never the package's.

    Raises:
        GraftError: it may not, for the first of these reasons: digest, base or a file is not what was
            packaged; tokenizer or prompt are not what it was trained with; it is in no engine's format
            that this server runs; a licence is not on the server's list; it reads more than its base can.
    """
    manifest = verify_package(package, base, digest)
    Prompt.load(package / PROMPT, base).require(manifest.prompt, package)
    _check_engine(manifest, package, settings)
    sheet = manifest.constraints
    licences = (("base", manifest.base.licence), ("base", sheet.base_licence), ("data", sheet.data_licence))
    check_licences(licences, settings, str(package))
    _check_context(manifest, package, base)
    return manifest


def check_licences(licences: Iterable[tuple[str, str]], settings: AdmissionSettings, where: str) -> None:
    """Hold `licences`, each with whose it is, to the server's list; `where` they stand is for the error.

    Raises:
        GraftError: one is not on the list.
    """
    for whose, licence in licences:
        if licence not in settings.licenses:
            raise GraftError(
                f"{where}: the licence of its {whose} is {licence!r}, which this server does not serve; its list is "
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
            f"{package}: made for the engine {name}, which reads {_READS[name]}, and there is none in it; "
            "package it again"
        )


def _check_context(manifest: Manifest, package: Path, base: Path) -> None:
    wanted, limit = manifest.max_prompt_tokens + manifest.engine.max_new_tokens, context_limit(base)
    if limit is not None and wanted > limit:
        raise GraftError(
            f"{package}: prompts of {manifest.max_prompt_tokens} and answers of {manifest.engine.max_new_tokens} "
            f"tokens make {wanted}, and its base was made for {limit}; lower prompt.max_prompt_tokens or "
            "engine.max_new_tokens in params.yaml and package it again"
        )
