"""A Prefect stack for tests: a real one, on a copy of the repository with a tiny base, little data, its own ports."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from deployments.core.ports import free_port, take_free_ports
from deployments.stack.prefect_api import OPEN_STATES, Json, PrefectApi
from deployments.stack.prefect_auth import PrefectAuth
from deployments.stack.prefect_login import auth_string, make_login
from tasks.base import source_sha256
from tasks.core.files import sha256_file
from tasks.core.paths import PROMPT_INJECTION_SOURCES
from tests.conftest import ROOT, embedding_source
from tests.support.attack_texts import ATTACKS, HARMLESS

COPIED = ("tasks", "flows", "deployments", "data", ".dvc/config", ".dvcignore", "params.yaml", "dvc.yaml")
LABELS = {"order_status": "tool", "plant_care": "answer", "private_data": "refusal"}
ROWS_PER_LABEL = 20
ATTACKS_KEPT = 5
WATCH_EVERY_S = 15


def edit_yaml(path: Path, changes: dict[str, Any]) -> None:
    """Set keys such as `prefect.port` in a YAML file."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    for key, value in changes.items():
        *parents, last = key.split(".")
        section = content
        for parent in parents:
            section = section[int(parent) if isinstance(section, list) else parent]
        section[last] = value
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def copy_repository(target: Path) -> Path:
    """Copy a clone's files into `target`, and set free ports and a short interval of the flow `watch`."""
    target.mkdir()
    for name in COPIED:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, target / name)
    subprocess.run(["git", "init", "--quiet", "."], cwd=target, check=True)
    edit_yaml(target / "deployments/stack.yaml", {"prefect.port": free_port(), "worker.poll_s": 1})
    edit_yaml(target / "deployments/registry.yaml", {"location": ".graft/registry", "endpoint": None})
    serve = yaml.safe_load((target / "deployments/serve.yaml").read_text(encoding="utf-8"))
    take_free_ports(serve)
    (target / "deployments/serve.yaml").write_text(yaml.safe_dump(serve, sort_keys=False), encoding="utf-8")
    edit_yaml(target / "deployments/prefect.yaml", {"deployments.2.schedules": [{"interval": WATCH_EVERY_S}]})
    return target


def make_small(root: Path, base: Path, prompts: Path, embedding: Path) -> None:
    """Make the copy's release run short: a random tiny base, three labels, a few rows, one short training.

    Args:
        root: the copy of the repository.
        base: folder of the base model.
        prompts: folder of the prompt.
        embedding: folder of the embedding model.
    """
    for file in (root / "data/raw").iterdir():
        if file.stem not in LABELS:
            file.unlink()
            continue
        lines = [line for line in file.read_text(encoding="utf-8").splitlines() if '"tool"' not in line]
        file.write_text("\n".join(lines[:ROWS_PER_LABEL]) + "\n", encoding="utf-8")
    attacks = root / "data/redteam/attacks.jsonl"
    attacks.write_text(
        "\n".join(attacks.read_text(encoding="utf-8").splitlines()[:ATTACKS_KEPT]) + "\n", encoding="utf-8"
    )
    shutil.rmtree(root / "data/prompts")
    shutil.copytree(prompts, root / "data/prompts")
    rules = {"rules.volume.min": 10, "rules.tokens.max": 5000, "rules.balance.severity": "warn"}
    edit_yaml(root / "data/contract.yaml", {"labels": LABELS, **rules})
    edit_yaml(root / PROMPT_INJECTION_SOURCES, {"sources": {"few": few_attacks(root / "attacks.csv")}})
    edit_yaml(
        root / "params.yaml",
        {
            "base.source": str(base),
            "base.sha256": source_sha256(base),
            "prompt.max_prompt_tokens": 3000,
            "train.epochs": 0.2,
            "train.learning_rate": 0.03,
            "train.first_adapted_layer": 0,
            "engine.max_new_tokens": 12,
            "gate.min_rows": 5,
            "gate.limits": {},
            "gate.max_ratio": {},
            **{f"embedding.{key}": value for key, value in embedding_source(embedding).items()},
            "prompt_injection.min_df": 1,
        },
    )


def few_attacks(path: Path) -> dict[str, Any]:
    """A source of the stage `prompt_injection` that needs no network."""
    rows = [*((text, 1) for text in ATTACKS), *((text, 0) for text in HARMLESS)]
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return {
        "set": "few",
        "license": "Apache-2.0",
        "file": str(path),
        "file_sha256": sha256_file(path),
        "text": "text",
        "label": "label",
        "use": "train",
    }


def talkative(base: Path, target: Path) -> Path:
    """A copy of the tiny base that answers `~~~`: an empty answer would fail the smoke test.

    Random weights repeat the prompt's last token, a line break; `~` gets the same embedding times 1.5.
    No row of data contains it, so training moves the answers away from it.
    """
    from safetensors.torch import load_file, save_file

    shutil.copytree(base, target)
    (target / "base.json").unlink()
    vocabulary = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    weights = load_file(target / "model.safetensors")
    table = weights["model.embed_tokens.weight"]
    table[vocabulary["~"]] = 1.5 * table[vocabulary["Ċ"]]  # how the byte-level alphabet writes a line break
    for token in ("Ġ", "<|im_end|>"):  # space and end token, so that neither becomes the likeliest token by training
        table[vocabulary[token]] = 0
    save_file(weights, target / "model.safetensors", {"format": "pt"})
    return target


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the repository, without a stack, as the working directory."""
    copied = copy_repository(tmp_path / "repository")
    monkeypatch.chdir(copied)
    return copied


@dataclass(frozen=True)
class GraftStack:
    """A running stack on a small copy of the repository, and its commands."""

    root: Path
    """The copy of the repository."""
    home: Path
    """The home folder of its commands."""
    api: PrefectApi
    """A client of its Prefect server."""

    @classmethod
    def at(cls, root: Path) -> GraftStack:
        """The stack of a copy of the repository that does not run yet; its home folder is made beside the copy."""
        home = root.parent / "home"
        home.mkdir()
        make_login(root)
        return cls(root, home, PrefectApi.of_stack(root))

    @property
    def prefect(self) -> httpx.Client:
        """A plain HTTP client of the Prefect API, with the stack's login."""
        url = f"{self.api.url}/api"
        return httpx.Client(base_url=url, auth=PrefectAuth(url, auth_string(self.root)), timeout=30.0)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `graft ARGUMENTS` as a shell does, with its output on a pipe."""
        argv = [sys.executable, "-c", "from flows.cli import main; main()", *arguments]
        environment = {**os.environ, "HOME": str(self.home), "PYTHONPATH": str(self.root), "PYTHONUNBUFFERED": "1"}
        return subprocess.Popen(
            argv,
            cwd=self.root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # Tests that were started in the background ignore SIGINT, and their child processes would inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def graft(self, *arguments: str, limit_s: float = 400.0) -> tuple[int, str]:
        """Exit status and output of `graft ARGUMENTS`."""
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=limit_s)
        return process.returncode, output

    def pids(self) -> dict[str, int]:
        """Pids of the stack's processes, from their records."""
        run = self.root / ".graft/run"
        return {path.stem: json.loads(path.read_text(encoding="utf-8"))["pid"] for path in run.glob("*.json")}

    def releases(self, states: tuple[str, ...] = (*OPEN_STATES, "COMPLETED", "FAILED", "CRASHED", "CANCELLED")) -> Json:
        """Runs of the release so far, by id."""
        return {run["id"]: run for run in self.api.runs(states, self.api.deployment("release", "release")["id"])}

    def wait(self, description: str, poll: Callable[[], Any], limit_s: float = 120.0) -> Any:
        """The first true result of `poll`; the test fails without one within `limit_s` seconds."""
        deadline = time.monotonic() + limit_s
        while not (value := poll()):
            if time.monotonic() > deadline:
                pytest.fail(f"{description}: not seen within {limit_s} s")
            time.sleep(0.5)
        return value

    def watch(self) -> str:
        """Run the flow `watch` now, instead of waiting for its schedule; the name of the run's last state."""
        run = self.api.create_run(self.api.deployment("watch", "watch")["id"])["id"]
        self.wait("the end of a run of `watch`", lambda: self.api.run(run)["state_type"] not in OPEN_STATES)
        return str(self.api.run(run)["state_name"])

    def production(self) -> str | None:
        """The digest of the channel `production`, if any."""
        path = self.root / ".graft/registry/channels/production.json"
        return json.loads(path.read_text(encoding="utf-8"))["digest"] if path.is_file() else None


def descendants(pid: int) -> list[psutil.Process]:
    """A process and its descendants."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


@pytest.fixture(scope="session")
def stack(tiny_base: Path, tiny_prompts: Path, tiny_embedding: Path) -> Iterator[GraftStack]:
    """A real running stack, which is stopped at the end."""
    folder = Path(tempfile.mkdtemp(prefix="gs-"))  # short: Ray's sockets lie below it
    root = copy_repository(folder / "r")
    make_small(root, talkative(tiny_base, folder / "base"), tiny_prompts, tiny_embedding)
    stack = GraftStack.at(root)
    try:
        status, output = stack.graft("up")
        assert status == 0, output
        yield stack
    finally:
        stack.graft("down")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def refused(stack: GraftStack) -> tuple[int, str]:
    """The first `graft run`: random weights show no uplift, so the gate fails."""
    return stack.graft("run")


@pytest.fixture(scope="session")
def released(stack: GraftStack, refused: tuple[int, str]) -> tuple[int, str]:
    """The second `graft run`, with a gate that passes every package."""
    assert refused[0] == 1
    lenient = {
        "gate.min_gain": -1.0,
        "gate.non_inferiority_margin": 1.0,
        "gate.min_quality": 0.0,
        "gate.min_valid_format": 0.0,
    }
    slices = {f"gate.slices.{name}.non_inferiority_margin": 1.0 for name in ("label", "language", "length")}
    edit_yaml(stack.root / "params.yaml", lenient | slices)
    return stack.graft("run")
