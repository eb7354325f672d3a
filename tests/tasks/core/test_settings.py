"""`params.yaml` is complete, strict, and its errors name the key.

Also covers `tasks/core/errors.py`.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from tasks.core.errors import GraftError
from tasks.core.settings import load_settings, read_yaml

PARAMS = Path(__file__).parents[3] / "params.yaml"


def load_with(tmp_path: Path, path: str, value: Any) -> Any:
    """Load a copy of params.yaml where the key at the dotted `path` is set, or removed if None."""
    content = copy.deepcopy(read_yaml(PARAMS))
    *parents, key = path.split(".")
    section = content
    for parent in parents:
        section = section[parent]
    if value is None:
        del section[key]
    else:
        section[key] = value
    target = tmp_path / "params.yaml"
    target.write_text(yaml.safe_dump(content), encoding="utf-8")
    return load_settings(target)


def test_the_repositorys_params_are_read_with_their_types() -> None:
    settings = load_settings(PARAMS)
    assert isinstance(settings.train.learning_rate, float)
    assert settings.train.target_modules[0] == "q_proj"
    with pytest.raises(ValidationError):
        settings.train.seed = 8


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("train.learning_rte", 0.1, "train.learning_rte: Extra inputs are not permitted"),
        ("trian", {"seed": 1}, "trian: Extra inputs are not permitted"),
        ("gate.min_rows", None, "gate.min_rows: Field required"),
        ("drift", None, "drift: Field required"),
        ("prepare.eval_fraction", 1.5, "prepare.eval_fraction: Input should be less than or equal to 1"),
        ("train.batch_size", 0, "train.batch_size: Input should be greater than 0"),
        ("engine.dtype", "int3", "engine.dtype: Input should be"),
        ("canary_analysis.alpha", 1.0, "canary_analysis.alpha: Input should be less than 1"),
        ("canary_analysis.margins.errors", 0, "canary_analysis.margins.errors: Input should be greater than 0"),
        ("canary_analysis.margins.speed", 0.1, "canary_analysis.margins.speed: Extra inputs are not permitted"),
        ("canary_analysis.timeout_s", 10, "canary_analysis: Value error, timeout_s must be interval_s at least"),
        ("train.epochs", "many", "train.epochs: Input should be a valid number"),
        ("package.forbidden_uses", [], "package.forbidden_uses: Tuple should have at least 1 item"),
        ("admission.licenses", [], "admission.licenses: Tuple should have at least 1 item"),
        ("admission.licenses", ["Apache 2.0"], "admission.licenses.0: String should match pattern"),
        ("admission.engines", ["onnx"], "admission.engines.0: Input should be"),
    ],
)
def test_a_wrong_key_is_named(tmp_path: Path, path: str, value: Any, message: str) -> None:
    with pytest.raises(GraftError) as error:
        load_with(tmp_path, path, value)
    assert message in str(error.value)
    assert "params.yaml" in str(error.value)


def test_all_wrong_keys_are_named_at_once(tmp_path: Path) -> None:
    content = read_yaml(PARAMS)
    content["gate"]["min_rows"] = -1
    content["train"]["lora_rank"] = "high"
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(GraftError, match=r"(?s)train\.lora_rank.*gate\.min_rows"):
        load_settings(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"a: [1,", "not readable as YAML"),
        (b"\xff\xfe\xfa", "not readable as YAML"),
        (b"- 1\n- 2\n", "expected a mapping of settings, found list"),
        (b"", "expected a mapping of settings, found NoneType"),
    ],
    ids=["missing", "broken", "not utf-8", "list", "empty"],
)
def test_an_unreadable_file_is_reported(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "params.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(GraftError, match=message):
        load_settings(path)
