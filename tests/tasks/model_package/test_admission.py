"""Admission refuses packages: for each reason, one package that is wrong in this way only, and its message."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import GraftError
from tasks.core.files import sha256_tree, write_json, write_text
from tasks.core.settings import AdmissionSettings, load_settings
from tasks.model_package.admission import admit, check_licenses
from tasks.model_package.manifest import MANIFEST, package_digest, read_manifest
from tests.conftest import ROOT
from tests.support.ray_stack import make_package

SETTINGS = AdmissionSettings(licenses=("Apache-2.0", "CC0-1.0"), engines=("openvino", "transformers"))


@dataclass(frozen=True)
class Published:
    """A package that a test may corrupt, and the base that it will be served on."""

    package: Path
    base: Path

    def seal(self, **changes: Any) -> None:
        """Change fields of the manifest and list the current files, so that no hash reveals the change."""
        manifest = read_manifest(self.package)
        files = sha256_tree(self.package, frozenset({MANIFEST}))
        changed = manifest.model_copy(update={**changes, "files": files})
        write_json(self.package / MANIFEST, changed.model_dump(mode="json"))

    def seal_sheet(self, **changes: Any) -> None:
        """Change fields of the constraint sheet, and seal the package."""
        self.seal(constraints=read_manifest(self.package).constraints.model_copy(update=changes))

    def rewrite_base(self, **changes: str) -> None:
        """Change fields of the base's own `base.json`."""
        path = self.base / "base.json"
        write_json(path, {**json.loads(path.read_text(encoding="utf-8")), **changes})


@pytest.fixture(scope="module")
def packaged(tiny_base: Path, tiny_prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_package(tmp_path_factory.mktemp("packages") / "package", 1, tiny_base, tiny_prompts)


@pytest.fixture
def published(packaged: Path, tiny_base: Path, tmp_path: Path) -> Published:
    shutil.copytree(packaged, tmp_path / "package")
    shutil.copytree(tiny_base, tmp_path / "base")
    return Published(tmp_path / "package", tmp_path / "base")


def test_a_right_package_is_admitted(published: Published) -> None:
    digest = package_digest(published.package)
    assert admit(digest, published.package, published.base, SETTINGS) == read_manifest(published.package)


def changed_file(published: Published) -> None:
    write_text(published.package / "prompt/system.txt", "Say yes to everything.")


def changed_weights_of_the_base(published: Published) -> None:
    (published.base / "model.safetensors").write_bytes(b"other weights")


def other_base(published: Published) -> None:
    published.rewrite_base(sha256="1" * 64)


def other_architecture(published: Published) -> None:
    published.rewrite_base(architecture="MistralForCausalLM")


def other_tokenizer(published: Published) -> None:
    hashes = read_manifest(published.package).prompt
    published.seal(prompt={**hashes, "tokenizer": "1" * 64})


def other_template(published: Published) -> None:
    path = published.package / "prompt/chat.jinja"
    write_text(path, path.read_text(encoding="utf-8").replace("Tools:", "You may call:"))
    published.seal()


def other_instructions(published: Published) -> None:
    write_text(published.package / "prompt/system.txt", "Say yes to everything.")
    published.seal()


def not_exported(published: Published) -> None:
    engine = read_manifest(published.package).engine
    published.seal(engine=engine.model_copy(update={"name": "openvino"}))


def no_adapter(published: Published) -> None:
    (published.package / "adapter/adapter_model.safetensors").unlink()
    published.seal()


def foreign_engine(published: Published) -> None:
    engine = read_manifest(published.package).engine
    published.seal(engine=engine.model_copy(update={"name": "vllm"}))


def license_of_the_base(published: Published) -> None:
    base = read_manifest(published.package).base
    published.seal(base=base.model_copy(update={"licence": "LicenseRef-Llama"}))


def license_on_the_sheet(published: Published) -> None:
    published.seal_sheet(base_licence="LicenseRef-Llama")


def license_of_the_data(published: Published) -> None:
    published.seal_sheet(data_licence="CC-BY-NC-4.0")


def too_long(published: Published) -> None:
    published.seal(max_prompt_tokens=3697)


@pytest.mark.parametrize(
    ("corrupt", "message"),
    [
        (changed_file, r"package/prompt/system\.txt: changed; this is not what was packaged"),
        (changed_weights_of_the_base, r"base/model\.safetensors: changed; this is not what was packaged"),
        (other_base, rf"base: this base's sha256 is {'1' * 64}, and .* on one whose sha256 is {'0' * 64}"),
        (other_architecture, r"base's architecture is MistralForCausalLM, .* whose architecture is LlamaForCausalLM"),
        (other_tokenizer, rf"package: its tokenizer has the hash \w+, but it was trained with {'1' * 64}"),
        (other_template, r"package: its template has the hash"),
        (other_instructions, r"package: its prompt has the hash"),
        (
            not_exported,
            r"made for the engine openvino, which reads openvino/openvino_model\.xml, and that file is",
        ),
        (no_adapter, r"made for the engine transformers, which reads adapter/adapter_model\.safetensors, and that"),
        (foreign_engine, r"made for the engine vllm, which this server does not run; its list is openvino, transf"),
        (license_of_the_base, r"the license of its base is 'LicenseRef-Llama', .* is Apache-2\.0, CC0-1\.0 \(params"),
        (license_on_the_sheet, r"the license of its base is 'LicenseRef-Llama'"),
        (license_of_the_data, r"the license of its data is 'CC-BY-NC-4\.0'"),
        (too_long, r"prompts of 3697 and answers of 400 tokens make 4097, and its base was made for 4096"),
    ],
)
def test_each_reason_has_its_own_message(
    published: Published, corrupt: Callable[[Published], None], message: str
) -> None:
    corrupt(published)
    with pytest.raises(GraftError, match=message):
        admit(package_digest(published.package), published.package, published.base, SETTINGS)


def test_a_sealed_package_in_the_place_of_the_published_one_is_refused(published: Published) -> None:
    digest = package_digest(published.package)
    other_instructions(published)
    with pytest.raises(GraftError, match=rf"the manifest's digest is \w+, expected {digest}"):
        admit(digest, published.package, published.base, SETTINGS)


def test_as_much_as_the_base_reads_is_admitted(published: Published) -> None:
    published.seal(max_prompt_tokens=3696)
    admit(package_digest(published.package), published.package, published.base, SETTINGS)


def test_the_servers_list_decides_and_not_the_packages_maker(published: Published) -> None:
    license_of_the_data(published)
    lenient = SETTINGS.model_copy(update={"licenses": (*SETTINGS.licenses, "CC-BY-NC-4.0")})
    admit(package_digest(published.package), published.package, published.base, lenient)


def test_the_repositorys_own_sources_may_be_served() -> None:
    settings = load_settings(ROOT / "params.yaml")
    check_licenses((("base", settings.base.license), ("data", "CC0-1.0")), settings.admission, "here")
