"""Stage `embedding`: download the embedding model of retrieval and check its sha256.

.graft/embeddings/SHA256/    the served model, never changed after publishing

The model is a sentence transformer as ONNX with its tokenizer: the mean of the last layer over the
text's tokens, normalized to length 1. It runs on onnxruntime, without torch, so that a process that
serves it starts without delay. `tasks/retrieval/embedder.py` embeds texts with it. Nothing is trained
here, and no index is stored.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np

from tasks.core.errors import run_main
from tasks.core.files import new_folder, sha256_tree, write_json
from tasks.core.paths import BUILT_EMBEDDING
from tasks.core.settings import EmbeddingSettings, load_settings
from tasks.model_package.downloads import fetch_checked
from tasks.retrieval.embedder import INFO, MODEL, TOKENIZER, EmbeddingInfo, EmbeddingSession


def bring_in(settings: EmbeddingSettings, target: Path) -> EmbeddingInfo:
    """Download, check and describe the embedding model; `target` is whole or untouched.

    Raises:
        GraftError: a file cannot be downloaded, or its sha256 differs from the one in `params.yaml`.
    """
    with new_folder(target) as folder:
        _fetch(settings.model, settings.model_sha256, "embedding.model", folder / MODEL)
        _fetch(settings.tokenizer, settings.tokenizer_sha256, "embedding.tokenizer", folder / TOKENIZER)
        one = np.ones((1, 1), dtype=np.int64)
        probe = EmbeddingSession(folder / MODEL, threads=1).last_layer(one, one)
        info = EmbeddingInfo(
            name=settings.name,
            licence=settings.license,
            window=settings.max_length,
            dimensions=probe.shape[-1],
            source=settings.model,
            files=sha256_tree(folder),
        )
        write_json(folder / INFO, info.model_dump())
    return info


def _fetch(source: str, sha256: str, key: str, target: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="graft-embedding-") as temporary:
        shutil.copyfile(fetch_checked(source, sha256, key, Path(temporary)), target)


def main() -> None:
    info = bring_in(load_settings().embedding, BUILT_EMBEDDING)
    print(f"embedding: {info.name}, {info.dimensions} dimensions, {info.licence}")


if __name__ == "__main__":
    run_main(main)
