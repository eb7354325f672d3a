"""Serving benchmark (serve): the service, its engine alone, llama.cpp's server and `transformers serve`.

All get the same prompts; all run at the same time and are measured in turns, in a closed loop of clients:
greedy decoding, at most 64 tokens. They serve the same merged weights: the
package's engine with its own, llama.cpp in Q8_0, transformers in float32. Prompts are the first
messages of eval and train rows. The clients share the machine with the systems. Then deploys,
overload and fuzzed requests are tested on the service alone.

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
    """Measure the service and the chosen other systems, which stop at the end.

    Args:
        stack: the running service.
        workload: the prompts.
        package: folder of the package.
        base: folder of the base model.
        options: command-line options.
    """
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
        results = measure(systems, workload, options.repeats)
        show(systems, results)
    return ratios(results)


def run_scenarios(stack: Stack, workload: Workload, package: Path, base: Path, embedding: Path) -> dict[str, float]:
    """Run all scenarios on the service; the embedding model is served for the last one.

    Args:
        stack: the running service.
        workload: the prompts.
        package: folder of the package.
        base: folder of the base model.
        embedding: folder of the embedding model, if it exists.
    """
    results = scenarios.run(stack, package, base, workload.texts, MAX_TOKENS)
    name = None
    if embedding.is_dir():
        (stack.root / BUILT_EMBEDDING).parent.mkdir()
        (stack.root / BUILT_EMBEDDING).symlink_to(embedding)
        name = read_embedding(embedding).name
        rollout.deploy(stack.digest)
    return results | {"server_errors_fuzz": server_errors(stack.url.removesuffix("/v1"), name)}


def machine() -> dict[str, Any]:
    """The machine and the versions for which the results hold."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cpu = names[0] if names else platform.processor() or platform.machine()
    return {"cpu": cpu, "cores": os.cpu_count(), "versions": {name: version(name) for name in VERSIONS}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2, help="measured runs per system and concurrency")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=SYSTEMS)
    parser.add_argument("--only", choices=("table", "scenarios"), help="run one part instead of both")
    options = parser.parse_args()
    package, base, examples, embedding = (
        path.resolve() for path in (BUILT_PACKAGE, BUILT_BASE, BUILT_EXAMPLES, BUILT_EMBEDDING)
    )
    for path in (package, base):
        if not path.is_dir():
            raise GraftError(f"{path}: not found; `dvc repro package` creates it")
    workload, results = Workload.load(package, base, examples), machine()
    print(json.dumps(results), flush=True)
    with (
        # Ray may write its last log lines while the folder is removed.
        tempfile.TemporaryDirectory(prefix="graft-", ignore_cleanup_errors=True) as folder,
        service(package, base, Path(folder)) as stack,
    ):
        if options.only != "scenarios":
            results = table(stack, workload, package, base, options) | results
            # Loading a model makes the CPU flush denormal numbers to zero, with which hypothesis refuses to work.
            torch.set_flush_denormal(False)
        if options.only != "table":
            results = run_scenarios(stack, workload, package, base, embedding) | results
    print(json.dumps(results))


if __name__ == "__main__":
    run_main(main)
