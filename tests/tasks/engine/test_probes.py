"""Probes on a tiny model: a correct deploy passes, and each kind of wrong deploy is detected.

Also covers `tasks/engine/loading.py`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks.core.errors import GraftError
from tasks.engine.loading import open_base, open_package
from tasks.engine.prefix_cache import common_prefix_length
from tasks.engine.probes import PARITY, ROWS, TOKENS, ProbeRow, check_answers, check_probes
from tasks.engine.resources import EXCLUSIVE
from tests.conftest import make_base
from tests.support.ray_stack import make_package, seal

WEIGHTS = "adapter/adapter_model.safetensors"


@pytest.fixture(scope="module")
def packaged(tiny_base: Path, tiny_prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_package(tmp_path_factory.mktemp("packages") / "package", 1, tiny_base, tiny_prompts)


def rewrite(package: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    save_file(change(load_file(package / WEIGHTS)), package / WEIGHTS, {"format": "pt"})


def another_template(package: Path) -> None:
    path = package / "prompt/chat.jinja"
    path.write_text(path.read_text(encoding="utf-8").replace("Tools:", "You may call:"))


def other_instructions(package: Path) -> None:
    (package / "prompt/system.txt").write_text("Be long.", encoding="utf-8")


def no_adapter(package: Path) -> None:
    rewrite(package, lambda weights: {name: torch.zeros_like(value) for name, value in weights.items()})


def another_adapter(package: Path) -> None:
    generator = torch.Generator().manual_seed(9)
    rewrite(package, lambda weights: {n: torch.randn(v.shape, generator=generator) for n, v in weights.items()})


def no_probes(package: Path) -> None:
    (package / PARITY).unlink()


def test_a_right_deploy_passes(packaged: Path, tiny_base: Path) -> None:
    check_probes(open_package(packaged, tiny_base, EXCLUSIVE), packaged)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (another_template, "parity probe: the prompt and the template differs"),
        (other_instructions, "parity probe: the prompt differs"),
        (no_adapter, "effect probe: 3 of 3 answers begin as the base's"),
        (another_adapter, r"parity probe: \d+% of 3 answers' first 8 tokens equal those recorded"),
        (no_probes, r"parity\.json: cannot be read as probes by this version"),
    ],
)
def test_a_wrong_deploy_is_detected(
    packaged: Path, tiny_base: Path, tmp_path: Path, wrong: Callable[[Path], None], message: str
) -> None:
    """Each package is sealed again, so that hashes alone would let it pass."""
    package = tmp_path / "package"
    shutil.copytree(packaged, package)
    wrong(package)
    seal(package, tiny_base)
    with pytest.raises(GraftError, match=message):
        check_probes(open_package(package, tiny_base, EXCLUSIVE), package)


def test_an_engine_that_omits_the_adapter_is_detected(packaged: Path, tiny_base: Path) -> None:
    """The package is intact, but another model answers."""
    with pytest.raises(GraftError, match="effect probe: 3 of 3 answers begin as the base's"):
        check_probes(open_base(packaged, tiny_base, tiny_base, EXCLUSIVE), packaged)


def test_an_adapter_of_another_base_is_detected(tiny_base: Path, tiny_prompts: Path, tmp_path: Path) -> None:
    """The other base has the same shape, so the adapter loads; the package is sealed as if made on the serving base."""
    trained_on = make_base(tmp_path / "base", seed=1)
    package = make_package(tmp_path / "package", 1, trained_on, tiny_prompts)
    check_probes(open_package(package, trained_on, EXCLUSIVE), package)
    seal(package, tiny_base)
    with pytest.raises(GraftError, match=r"parity probe: \d+% of 3 answers' first 8 tokens equal those recorded"):
        check_probes(open_package(package, tiny_base, EXCLUSIVE), package)


def test_prompts_must_be_the_same_token_for_token(packaged: Path, tiny_base: Path, tmp_path: Path) -> None:
    """The hashes are the same but the prompt differs, as when the code that renders it has changed."""
    package = tmp_path / "package"
    shutil.copytree(packaged, package)
    changed = (package / PARITY).read_text(encoding="utf-8").replace("Where is it?", "Where is he?")
    (package / PARITY).write_text(changed, encoding="utf-8")
    with pytest.raises(GraftError, match=r"parity probe: token \d+ of prompt \d differs"):
        check_probes(open_package(package, tiny_base, EXCLUSIVE), package)


def test_one_answer_may_take_another_turn() -> None:
    """Two machines may cause this, because their sums differ in the last bits."""
    row = ProbeRow(messages=(), prompt_ids=(1,), answer_ids=tuple(range(TOKENS)), base_ids=(0,))
    diverged = (*range(3), 99, *range(4, TOKENS))
    check_answers([diverged, *[row.answer_ids] * (ROWS - 1)], [row] * ROWS)
    with pytest.raises(GraftError, match="38% of 4 answers' first 8 tokens equal"):
        check_answers([diverged] * ROWS, [row] * ROWS)


def test_agreement_is_counted_from_the_start() -> None:
    assert (
        common_prefix_length((1, 2, 3), (1, 2)),
        common_prefix_length((1, 2, 3), (1, 9, 3)),
        common_prefix_length((), (1,)),
    ) == (2, 1, 0)
