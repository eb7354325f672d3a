"""Stage `package`: the immutable folder that will be evaluated, released and served.

It holds the adapter, the prompt and a manifest; the base stays where it is and is named by its
sha256. The probes, recorded here on the engine that serves, let every later deploy show that it
still says the same.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tasks.card import render
from tasks.engine.open import ADAPTER, PROMPT, open_base, open_package
from tasks.errors import run_main
from tasks.examples import load_examples
from tasks.files import new_folder, sha256_file, sha256_tree, write_json, write_text
from tasks.layout import BUILT_ADAPTER, BUILT_BASE, BUILT_EXAMPLES, BUILT_PACKAGE, CONTRACT, PROMPTS
from tasks.manifest import MANIFEST, PROVENANCE, BaseModelInfo, Manifest, package_digest
from tasks.probe import PARITY, Probes, record
from tasks.prompt import FILES, Prompt
from tasks.records import Example
from tasks.settings import Settings, load_settings
from tasks.terms import Terms, load_terms


def describe_data(terms: Terms, folder: Path) -> dict[str, Any]:
    """Whose data it is, under which licence, how old, and the hash of each split."""
    train = load_examples(folder / "train.parquet")
    return {
        "owner": terms.owner,
        "licence": terms.licence,
        "source": terms.source,
        "updated": terms.updated.isoformat(),
        "training_rows": len(train),
        "labels": dict(sorted(Counter(example.label for example in train).items())),
        "files": {path.name: sha256_file(path) for path in sorted(folder.glob("*.parquet"))},
    }


def build(
    settings: Settings, terms: Terms, base: Path, adapter: Path, prompts: Path, examples: Path, target: Path
) -> str:
    """Write the package to `target`, whole or not at all; return its digest."""
    prompt = Prompt.load(prompts, base)
    with new_folder(target) as folder:
        shutil.copytree(adapter, folder / ADAPTER)
        (folder / PROMPT).mkdir()
        for name in FILES:
            shutil.copy(prompts / name, folder / PROMPT / name)
        manifest = Manifest(
            name=settings.package.name,
            base=BaseModelInfo.model_validate_json((base / "base.json").read_bytes()),
            prompt=prompt.identity,
            engine=settings.engine,
            max_prompt_tokens=settings.prompt.max_prompt_tokens,
            data=describe_data(terms, examples),
            params={"prepare": settings.prepare.model_dump(), "train": settings.train.model_dump(mode="json")},
            languages=settings.package.languages,
            intended_use=settings.package.intended_use,
            limits=settings.package.limits,
            refusal_phrases=terms.refusal_phrases,
            files={},
        )
        write_text(folder / "card.md", render(manifest))
        write_manifest(folder, manifest)
        probes = record_parity(folder, base, load_examples(examples / "eval.parquet"))
        write_json(folder / PARITY, probes.model_dump(mode="json"))
        write_manifest(folder, manifest)
        write_json(folder / PROVENANCE, provenance())
        return package_digest(folder)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest with the hashes of the files that are there now."""
    files = sha256_tree(folder, frozenset({MANIFEST, PROVENANCE}))
    write_json(folder / MANIFEST, manifest.model_copy(update={"files": files}).model_dump(mode="json"))


def record_parity(package: Path, base: Path, examples: Sequence[Example]) -> Probes:
    """What later deploys are probed with: eval rows of different labels, short ones first."""
    by_label = {example.label: example for example in reversed(examples)}
    prompts = [by_label[label].prompt for label in sorted(by_label)]
    prompts.sort(key=lambda prompt: sum(len(message.content) for message in prompt))
    return record(open_package(package, base), open_base(package, base), prompts)


def provenance() -> dict[str, str | None]:
    """Who made the package, when, in which run: beside the content, not part of its name."""
    revision = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "built_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_revision": revision.stdout.strip() or None,
        "flow_run_id": os.environ.get("GRAFT_FLOW_RUN_ID"),
    }


def main() -> None:
    digest = build(
        load_settings(), load_terms(CONTRACT), BUILT_BASE, BUILT_ADAPTER, PROMPTS, BUILT_EXAMPLES, BUILT_PACKAGE
    )
    print(f"package: {digest}")


if __name__ == "__main__":
    run_main(main)
