"""Stage `package`: build the model package, the immutable folder that is evaluated, released and served.

It holds the adapter, the prompt, a manifest and, for the engine `openvino`, the exported weights;
the base is not copied but named by its sha256. The probes, recorded here on the serving engine, let every
later deploy check that the answers are unchanged.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tasks.core.errors import run_main
from tasks.core.files import new_folder, sha256_file, sha256_tree, write_json, write_text
from tasks.core.paths import (
    BUILT_ADAPTER,
    BUILT_BASE,
    BUILT_BASELINE,
    BUILT_GROUNDING,
    BUILT_PACKAGE,
    CONTRACT,
    PROMPTS,
)
from tasks.core.records import Example
from tasks.core.renamed_keys import old_names
from tasks.core.settings import Settings, load_settings
from tasks.data.contract_spec import ContractSpec, load_contract
from tasks.data.examples import load_examples
from tasks.engine.loading import open_base, open_package
from tasks.engine.openvino_export import export
from tasks.engine.probes import PARITY, Probes, record_probes
from tasks.engine.resources import EXCLUSIVE
from tasks.engine.weight_fidelity import measure_fidelity
from tasks.model_package.constraints import Constraints, context_limit
from tasks.model_package.manifest import (
    ADAPTER,
    BASE,
    EXPORTED,
    MANIFEST,
    PROMPT,
    PROVENANCE,
    BaseModelInfo,
    Fidelity,
    Manifest,
    package_digest,
    read_grounding,
)
from tasks.model_package.model_card import render
from tasks.prompt.encoding import Prompt
from tasks.prompt.template import FILES


def describe_data(terms: ContractSpec, folder: Path) -> dict[str, Any]:
    """The source of the data, the training rows by label, and the sha256 of each split."""
    train = load_examples(folder / "train.parquet")
    return {
        "source": terms.source,
        "training_rows": len(train),
        "labels": dict(sorted(Counter(example.label for example in train).items())),
        "files": {path.name: sha256_file(path) for path in sorted(folder.glob("*.parquet"))},
    }


def stored_params(settings: Settings) -> dict[str, Any]:
    """The settings of data and training under the names of version 0.1, which the package's digest covers."""
    return {
        "prepare": old_names("prepare", settings.prepare.model_dump()),
        "train": old_names("train", settings.train.model_dump(mode="json")),
    }


def constraints(settings: Settings, terms: ContractSpec, base: Path, info: BaseModelInfo) -> Constraints:
    """The constraint sheet of a package on this base.

    Args:
        settings: `params.yaml`, for intended and forbidden uses, languages and lengths.
        terms: the contract, for the data's license, owner and age.
        base: the base model's folder.
        info: the base model's description.
    """
    return Constraints(
        base_licence=info.licence,
        data_licence=terms.license,
        data_owner=terms.owner,
        data_updated=terms.updated,
        review_after_days=terms.cadence_days,
        intended_use=settings.package.intended_use,
        forbidden_uses=settings.package.forbidden_uses,
        languages=settings.package.languages,
        context_tokens=settings.prompt.max_prompt_tokens + settings.engine.max_new_tokens,
        base_context_tokens=context_limit(base),
    )


def build(
    settings: Settings,
    terms: ContractSpec,
    base: Path,
    baseline: Path,
    adapter: Path,
    prompts: Path,
    examples: Path,
    target: Path,
) -> str:
    """Write the package to `target`, completely or not at all; return its digest.

    Args:
        settings: `params.yaml`.
        terms: the contract.
        base: the base model's folder.
        baseline: the base alone in the engine's format; see the stage `base`.
        adapter: the trained adapter's folder.
        prompts: the folder of the prompt's files.
        examples: the folder of the splits.
        target: the package's folder.
    """
    prompt = Prompt.load(prompts, base)
    info = BaseModelInfo.model_validate_json((base / BASE).read_bytes())
    with new_folder(target) as folder:
        shutil.copytree(adapter, folder / ADAPTER)
        (folder / PROMPT).mkdir()
        for name in FILES:
            shutil.copy(prompts / name, folder / PROMPT / name)
        held_out = load_examples(examples / "eval.parquet")
        fidelity = _export(settings, prompt, base, folder, held_out) if settings.engine.name == "openvino" else None
        manifest = Manifest(
            name=settings.package.name,
            base=info,
            prompt=prompt.identity,
            engine=settings.engine,
            max_prompt_tokens=settings.prompt.max_prompt_tokens,
            data=describe_data(terms, examples),
            params=stored_params(settings),
            constraints=constraints(settings, terms, base, info),
            refusal_phrases=terms.refusal_phrases,
            fidelity=fidelity,
            grounding=read_grounding(examples),
            files={},
        )
        write_text(folder / "card.md", render(manifest, f"{ADAPTER}/loss.png"))
        write_manifest(folder, manifest)
        write_json(folder / PARITY, record_parity(folder, base, baseline, held_out).model_dump(mode="json"))
        write_manifest(folder, manifest)
        write_json(folder / PROVENANCE, provenance())
        return package_digest(folder)


def _export(settings: Settings, prompt: Prompt, base: Path, folder: Path, examples: Sequence[Example]) -> Fidelity:
    """Export the weights for the engine openvino into the package, and compare them with their float32 model."""
    print("package: exporting for the engine openvino", flush=True)
    export(base, folder / ADAPTER, folder / EXPORTED)
    step = math.ceil(len(examples) / settings.package.compared_rows)
    rows = [prompt.encode_training(example.messages) for example in examples[::step]]
    fidelity = measure_fidelity(base, folder / ADAPTER, folder / EXPORTED, rows)
    print(
        f"package: perplexity {fidelity.perplexity:.3f} (float32: {fidelity.float32_perplexity:.3f}), "
        f"same next token {fidelity.greedy_agreement:.1%} of {fidelity.tokens}",
        flush=True,
    )
    return fidelity


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest with the hashes of the current files."""
    files = sha256_tree(folder, frozenset({MANIFEST, PROVENANCE}))
    write_json(folder / MANIFEST, manifest.model_copy(update={"files": files}).model_dump(mode="json"))


def record_parity(package: Path, base: Path, baseline: Path, examples: Sequence[Example]) -> Probes:
    """The probes for later deploys: eval rows of different labels, short ones first.

    Args:
        package: the package's folder, with a manifest.
        base: the base model's folder.
        baseline: the base alone in the engine's format.
        examples: the eval rows.
    """
    by_label = {example.label: example for example in reversed(examples)}
    prompts = [by_label[label].prompt for label in sorted(by_label)]
    prompts.sort(key=lambda prompt: sum(len(message.content) for message in prompt))
    return record_probes(open_package(package, base, EXCLUSIVE), open_base(package, base, baseline, EXCLUSIVE), prompts)


def provenance() -> dict[str, str | None]:
    """The build time, git revision and flow run of a package; they are not part of its digest."""
    return {
        "built_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_revision": _git_revision(),
        "flow_run_id": os.environ.get("GRAFT_FLOW_RUN_ID"),
    }


def _git_revision() -> str | None:
    """The commit that is checked out; None outside a git repository, or where git is not installed."""
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return found.stdout.strip() or None


def main() -> None:
    built = (BUILT_BASE, BUILT_BASELINE, BUILT_ADAPTER, PROMPTS, BUILT_GROUNDING)
    digest = build(load_settings(), load_contract(CONTRACT), *built, BUILT_PACKAGE)
    print(f"package: {digest}")


if __name__ == "__main__":
    run_main(main)
