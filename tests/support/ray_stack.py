"""A Ray stack for tests of deployments, and tiny packages to serve on it."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from deployments.core.settings import ServeSettings
from deployments.serve.ray_head import head_command, ready
from tasks.core.files import create_private, sha256_tree, write_json
from tasks.core.records import Message
from tasks.core.settings import EngineSettings
from tasks.engine.loading import open_base, open_package
from tasks.engine.probes import PARITY, record_probes
from tasks.engine.resources import EXCLUSIVE
from tasks.model_package.manifest import MANIFEST, BaseModelInfo, Manifest, package_digest
from tasks.prompt.encoding import Prompt
from tasks.prompt.template import FILES
from tests.support.constraints import SHEET

MAX_PROMPT_TOKENS = 600


def make_package(folder: Path, seed: int, base: Path, prompts: Path) -> Path:
    """Write a package with a random adapter, different for each seed, and its probes.

    Args:
        folder: folder of the package.
        seed: seed of the adapter's weights.
        base: folder of the base model.
        prompts: folder of the prompt.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base, local_files_only=True)
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(model, lora).save_pretrained(folder / "adapter")
    (folder / "prompt").mkdir()
    for name in FILES:
        (folder / "prompt" / name).write_bytes((prompts / name).read_bytes())
    seal(folder, base)
    prompts_of_probes = [[Message(role="user", content=f"Where is {it}?")] for it in ("my order", "the shop", "it")]
    engine, base_engine = open_package(folder, base, EXCLUSIVE), open_base(folder, base, base, EXCLUSIVE)
    probes = record_probes(engine, base_engine, prompts_of_probes)
    write_json(folder / PARITY, probes.model_dump(mode="json"))
    seal(folder, base)
    return folder


def seal(package: Path, base: Path) -> str:
    """Write the manifest of the files in `package`; return its digest."""
    manifest = Manifest(
        name="tiny-desk",
        base=BaseModelInfo.model_validate_json((base / "base.json").read_bytes()),
        prompt=Prompt.load(package / "prompt", base).identity,
        engine=EngineSettings(name="transformers", dtype="float32", max_new_tokens=400),
        max_prompt_tokens=MAX_PROMPT_TOKENS,
        data={},
        params={},
        constraints=SHEET,
        refusal_phrases=("i can't",),
        files=sha256_tree(package, frozenset({MANIFEST})),
    )
    write_json(package / MANIFEST, manifest.model_dump())
    return package_digest(package)


@dataclass(frozen=True)
class RayStack:
    """A running Ray head with the assistant; the process's working directory is its root."""

    root: Path
    """Working directory, with settings and registry."""
    settings: ServeSettings
    """Settings of the service."""
    publish: Callable[[int], str]
    """A function that publishes the package of a seed and returns its digest."""
    head: subprocess.Popen[bytes]
    """The process of the Ray head."""


def start_head(settings: ServeSettings, root: Path) -> subprocess.Popen[bytes]:
    command, environment = head_command(settings.one_box.ray, root)
    # Of another Ray: where its mode is not set, Ray takes the token that it finds here.
    create_private(root / "home/.ray/auth_token", b"the token of another Ray, long enough to be taken")
    environment["HOME"] = str(root / "home")
    log = (root / "ray.log").open("wb")
    head = subprocess.Popen(command, env=environment, cwd=root, stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + settings.ray.start_timeout_s
    while not ready(settings.ray, root):
        if time.monotonic() > deadline or head.poll() is not None:
            stop_head(head)
            pytest.fail((root / "ray.log").read_text(encoding="utf-8"))
        time.sleep(0.2)
    return head


def stop_head(head: subprocess.Popen[bytes]) -> None:
    if head.poll() is not None:
        return
    children = psutil.Process(head.pid).children(recursive=True)
    head.send_signal(signal.SIGTERM)
    head.wait(30)
    deadline = time.monotonic() + 20
    while (alive := [c for c in children if _is_alive(c)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    for child in alive:
        child.kill()
    assert not alive, "Ray left processes behind"


def _is_alive(process: psutil.Process) -> bool:
    """Whether a process runs; a zombie, which its parent has not reaped, counts as ended."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
