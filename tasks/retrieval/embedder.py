"""The embedding model of retrieval: texts to vectors, by onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from tasks.core.errors import GraftError
from tasks.core.files import sha256_file
from tasks.core.paths import EMBEDDINGS
from tasks.core.records import Record
from tasks.model_package import artifact_store

INFO = "embedding.json"


MODEL = "model.onnx"


TOKENIZER = "tokenizer.json"


Ints = npt.NDArray[np.int64]


Vectors = npt.NDArray[np.float32]


class EmbeddingInfo(Record):
    """A retrieval model: its name, licence and window in tokens, where it came from, its files' sha256."""

    name: str
    licence: str
    window: int
    dimensions: int
    source: str
    files: dict[str, str]


class TextTooLongError(GraftError):
    """A text has more tokens than the model reads; it would have to be cut."""


class Embedder:
    """A retrieval model, opened from a folder like `build/embedding` after checking its files.

    Args:
        folder: the model.
        threads: cores that a batch is computed on.

    Raises:
        GraftError: a file is missing, or not what `embedding.json` says.
    """

    def __init__(self, folder: Path, threads: int) -> None:
        self.info = read_embedding(folder)
        self.digest = sha256_file(folder / INFO)
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True
        self._session = EmbeddingSession(folder / MODEL, threads)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, with the model's own opening and end.

        Raises:
            TextTooLongError: a text has more of them than the window; its place is named.
        """
        encoded = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        for place, ids in enumerate(encoded):
            if len(ids) > self.info.window:
                raise TextTooLongError(
                    f"text {place} has {len(ids)} tokens; this model reads at most {self.info.window}: split it"
                )
        return encoded

    def count(self, text: str) -> int:
        """How many tokens a text of any length has, with the model's own opening and end."""
        return len(self._tokenizer.encode(text).ids)

    def embed(self, batch: Sequence[Sequence[int]]) -> Vectors:
        """Vectors [texts, dimensions] of length 1, of the texts' token ids."""
        mask = np.zeros((len(batch), max(map(len, batch))), dtype=np.int64)
        ids = np.zeros_like(mask)
        for row, text in enumerate(batch):
            mask[row, : len(text)] = 1
            ids[row, : len(text)] = text
        layer = self._session.last_layer(ids, mask)
        mean = (layer * mask[..., None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
        return (mean / np.linalg.norm(mean, axis=1, keepdims=True)).astype(np.float32)  # type: ignore[no-any-return]


def read_embedding(folder: Path) -> EmbeddingInfo:
    """What `folder` holds, after checking it byte for byte.

    Raises:
        GraftError: a file is missing, or not what `embedding.json` says.
    """
    return artifact_store.read(folder, INFO, EmbeddingInfo, "retrieval model", "embedding")


def publish(built: Path, root: Path = EMBEDDINGS) -> str:
    """Copy a retrieval model to where it is served from; returns its digest.

    Raises:
        GraftError: a file is not what `embedding.json` says.
    """
    read_embedding(built)
    return artifact_store.publish(built, INFO, root)


class EmbeddingSession:
    """onnxruntime with a BERT's three inputs, of which a model may lack the last."""

    def __init__(self, model: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self._run = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self._inputs = frozenset(given.name for given in self._run.get_inputs())

    def last_layer(self, ids: Ints, mask: Ints) -> Vectors:
        """[texts, length, dimensions] of `ids` [texts, length]."""
        known = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        (output,) = self._run.run(None, {name: value for name, value in known.items() if name in self._inputs})
        return output  # type: ignore[no-any-return]
