"""Serving: the whole service, its engine alone, llama.cpp's server and `transformers serve`, on the same prompts.

All are up at the same time and asked in turns, each by as many clients as are said, who ask again
once they are answered: greedily, at most 64 tokens. They answer with the same merged weights: the
package's engine with its own, llama.cpp in Q8_0, transformers in float32. Prompts are the first
messages of eval and train rows. The clients share the machine with what they ask. Then changes,
overload and made-up requests are tried on the service alone.

    python -m benchmarks.serve

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.serving import scenarios
from benchmarks.serving.openapi_fuzz import server_errors
from benchmarks.serving.service_stack import Stack, service
from benchmarks.serving.systems import System, engine_alone, llama_cpp, transformers_serve
from benchmarks.serving.table import MAX_TOKENS, measure, ratios, show
from benchmarks.serving.workload import Workload, write_folder, write_q8
from deployments.serve import rollout
from tasks.core.errors import GraftError, run_main
from tasks.core.paths import BUILT_BASE, BUILT_EMBEDDING, BUILT_EXAMPLES, BUILT_PACKAGE
from tasks.engine.resources import Resources
from tasks.retrieval.embedder import read_embedding

SYSTEMS = ("service", "engine", "llama.cpp", "transformers")
VERSIONS = ("ray", "openvino-genai", "xllamacpp", "transformers", "torch")


def table(stack: Stack, workload: Workload, package: Path, base: Path, options: argparse.Namespace) -> dict[str, float]:
    """Measure the service beside the chosen others, which stop at the end."""
    root, settings = stack.root, stack.settings.engine
    resources = Resources(settings.threads, settings.cache_gb, in_subprocess=False)

    def llama() -> AbstractContextManager[System]:
        write_q8(package, base, root / "q8.gguf")
        return llama_cpp(root / "q8.gguf", workload.opening, settings.threads, settings.max_num_seqs, root)

    def transformers() -> AbstractContextManager[System]:
        write_folder(package, base, workload, root / "merged")
        return transformers_serve(root / "merged", workload.opening, settings.threads, root)

    starts: dict[str, Callable[[], AbstractContextManager[System]]] = {
        "engine": lambda: engine_alone(package, base, resources),
        "llama.cpp": llama,
        "transformers": transformers,
    }
    with ExitStack() as running:
        others = [running.enter_context(starts[name]()) for name in options.systems if name != "service"]
        systems = [stack.system, *others] if "service" in options.systems else others
        results = measure(systems, workload, options.rounds)
        show(systems, results)
    return ratios(results)


def tried(stack: Stack, workload: Workload, package: Path, base: Path, embedding: Path) -> dict[str, float]:
    """All scenarios on the service; the retrieval model is served for the last."""
    told = scenarios.run(stack, package, base, workload.texts, MAX_TOKENS)
    name = None
    if embedding.is_dir():
        (stack.root / BUILT_EMBEDDING).parent.mkdir()
        (stack.root / BUILT_EMBEDDING).symlink_to(embedding)
        name = read_embedding(embedding).name
        rollout.deploy(stack.digest)
    return told | {"server_errors_fuzz": server_errors(stack.url.removesuffix("/v1"), name)}


def machine() -> dict[str, Any]:
    """What the figures hold for."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cpu = names[0] if names else platform.processor() or platform.machine()
    return {"cpu": cpu, "cores": os.cpu_count(), "versions": {name: version(name) for name in VERSIONS}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=SYSTEMS)
    parser.add_argument("--only", choices=("table", "scenarios"), help="one part instead of both")
    options = parser.parse_args()
    package, base, examples, embedding = (
        path.resolve() for path in (BUILT_PACKAGE, BUILT_BASE, BUILT_EXAMPLES, BUILT_EMBEDDING)
    )
    for path in (package, base):
        if not path.is_dir():
            raise GraftError(f"{path}: not there; `dvc repro package` makes it")
    workload, told = Workload.load(package, base, examples), machine()
    print(json.dumps(told), flush=True)
    with (
        # Ray's last words may be written while it is removed.
        tempfile.TemporaryDirectory(prefix="graft-", ignore_cleanup_errors=True) as folder,
        service(package, base, Path(folder)) as stack,
    ):
        if options.only != "scenarios":
            told = table(stack, workload, package, base, options) | told
            # Loading a model let the CPU round numbers near zero to zero, with which hypothesis refuses to work.
            torch.set_flush_denormal(False)
        if options.only != "table":
            told = tried(stack, workload, package, base, embedding) | told
    print(json.dumps(told))


if __name__ == "__main__":
    run_main(main)
