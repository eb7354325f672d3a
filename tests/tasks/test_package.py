"""Stage `package` on a tiny model: the same content has the same digest, and probes record the engine's answers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tasks.base import write_baseline
from tasks.core.errors import GraftError
from tasks.core.records import Example, Message
from tasks.core.settings import load_settings
from tasks.data.contract_spec import load_contract
from tasks.data.examples import save_examples
from tasks.engine.loading import open_base, open_package
from tasks.engine.probes import PARITY, TOKENS, Probes
from tasks.engine.resources import EXCLUSIVE
from tasks.model_package.manifest import MANIFEST, PROVENANCE, package_digest, read_manifest, verify_package
from tasks.package import build, provenance
from tests.conftest import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    for split in ("train", "eval", "test"):
        rows = [
            Example(
                id=f"{split}{number}",
                label=f"kind{number % 3}",
                group=f"{split}{number}",
                split=split,
                source="x.jsonl:1",
                messages=(
                    Message(role="user", content=f"question {number}"),
                    Message(role="assistant", content=f"answer {number}"),
                ),
            )
            for number in range(6)
        ]
        save_examples(folder / f"{split}.parquet", rows)
    return folder


def package(
    base: Path, adapter: Path, prompts: Path, examples: Path, target: Path, engine: str = "transformers"
) -> str:
    settings, terms = load_settings(ROOT / "params.yaml"), load_contract(ROOT / "data/contract.yaml")
    engine_settings = settings.engine.model_copy(update={"name": engine})
    baseline = target.parent / "baseline"
    write_baseline(engine_settings, base, baseline)
    settings = settings.model_copy(update={"engine": engine_settings})
    return build(settings, terms, base, baseline, adapter, prompts, examples, target)


@pytest.fixture(scope="module")
def packages(
    tiny_base: Path, tiny_adapter: Path, tiny_prompts: Path, examples: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """The package of an engine, which the tests only read."""

    @cache
    def packaged(engine: str) -> Path:
        target = tmp_path_factory.mktemp(engine) / "package"
        package(tiny_base, tiny_adapter, tiny_prompts, examples, target, engine)
        return target

    return packaged


def test_same_content_has_the_same_digest(
    tiny_base: Path, tiny_adapter: Path, tiny_prompts: Path, examples: Path, tmp_path: Path
) -> None:
    one = package(tiny_base, tiny_adapter, tiny_prompts, examples, tmp_path / "one")
    two = package(tiny_base, tiny_adapter, tiny_prompts, examples, tmp_path / "two")
    assert one == two == package_digest(tmp_path / "one")
    assert json.loads((tmp_path / "one" / PROVENANCE).read_text())["built_at"]
    manifest = verify_package(tmp_path / "one", tiny_base, one)
    assert manifest.data["labels"] == {"kind0": 2, "kind1": 2, "kind2": 2}
    assert {"card.md", PARITY, "prompt/chat.jinja", "adapter/adapter_model.safetensors"} <= manifest.files.keys()


def test_the_sheet_is_what_params_contract_and_base_say(packages: Callable[[str], Path]) -> None:
    folder = packages("transformers")
    settings, terms = load_settings(ROOT / "params.yaml"), load_contract(ROOT / "data/contract.yaml")
    manifest = read_manifest(folder)
    sheet = manifest.constraints
    assert (sheet.base_licence, sheet.data_licence) == ("Apache-2.0", terms.license)
    assert (sheet.data_owner, sheet.data_updated) == (terms.owner, terms.updated)
    assert (sheet.review_by - terms.updated).days == terms.cadence_days
    assert sheet.intended_use == settings.package.intended_use
    assert sheet.forbidden_uses == settings.package.forbidden_uses
    assert sheet.languages == settings.package.languages
    assert sheet.context_tokens == manifest.max_prompt_tokens + manifest.engine.max_new_tokens
    assert sheet.base_context_tokens == 4096
    card = (folder / "card.md").read_text(encoding="utf-8")
    assert "![Loss during training](adapter/loss.png)" in card


@pytest.mark.parametrize("engine", ["openvino", "transformers"])
def test_parity_is_what_the_opened_package_answers(
    engine: str, tiny_base: Path, packages: Callable[[str], Path]
) -> None:
    folder = packages(engine)
    probes = Probes.model_validate_json((folder / PARITY).read_bytes())
    assert len(probes.rows) == 3
    tuned = open_package(folder, tiny_base, EXCLUSIVE)
    base = open_base(folder, tiny_base, folder.parent / "baseline", EXCLUSIVE)
    assert probes.prompt == tuned.prompt.identity
    for row in probes.rows:
        assert tuned.request(row.messages).prompt_ids == row.prompt_ids
        assert next(tuned.answers([row.messages], 1))[1].token_ids[:TOKENS] == row.answer_ids
        assert next(base.answers([row.messages], 1))[1].token_ids[:TOKENS] == row.base_ids
    assert any(row.answer_ids != row.base_ids for row in probes.rows), "the adapter answers as its base does"


def test_exported_weights_come_with_what_they_lost(packages: Callable[[str], Path]) -> None:
    fidelity = read_manifest(packages("openvino")).fidelity
    assert fidelity
    assert fidelity.rows == 6
    assert fidelity.greedy_agreement > 0.8
    card = (packages("openvino") / "card.md").read_text()
    assert f"perplexity of assistant turns | {fidelity.perplexity:.3f}" in card
    assert f"{fidelity.greedy_agreement:.1%} of {fidelity.tokens}" in card


def test_a_swapped_template_is_refused(
    tiny_base: Path, tiny_adapter: Path, tiny_prompts: Path, examples: Path, tmp_path: Path
) -> None:
    package(tiny_base, tiny_adapter, tiny_prompts, examples, tmp_path / "package")
    (tmp_path / "package/prompt/system.txt").write_text("You are another assistant.")
    with pytest.raises(GraftError, match="its prompt has the hash"):
        open_package(tmp_path / "package", tiny_base, EXCLUSIVE)
    with pytest.raises(GraftError, match=r"prompt/system.txt: changed"):
        verify_package(tmp_path / "package", tiny_base)


def test_another_base_is_refused(
    tiny_base: Path, tiny_adapter: Path, tiny_prompts: Path, examples: Path, tmp_path: Path
) -> None:
    package(tiny_base, tiny_adapter, tiny_prompts, examples, tmp_path / "package")
    other = tmp_path / "base"
    shutil.copytree(tiny_base, other)
    (other / "model.safetensors").write_bytes(b"not the same")
    with pytest.raises(GraftError, match=r"model.safetensors: changed"):
        verify_package(tmp_path / "package", other)


def test_a_long_prompt_is_refused_not_cut(tiny_base: Path, packages: Callable[[str], Path]) -> None:
    folder = packages("transformers")
    limit = read_manifest(folder).max_prompt_tokens
    with pytest.raises(GraftError, match=f"at most {limit} are allowed"):
        open_package(folder, tiny_base, EXCLUSIVE).request([Message(role="user", content="x" * limit)])
    assert (folder / MANIFEST).is_file()


def test_a_package_is_built_where_git_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert provenance()["git_revision"], "the checkout of the tests is a git repository"
    monkeypatch.setenv("PATH", "/nowhere")
    assert provenance()["git_revision"] is None
