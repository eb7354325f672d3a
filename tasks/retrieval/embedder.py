"""The embedder of retrieval: an ONNX embedding model that turns texts into vectors, run by onnxruntime."""

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
    """`embedding.json`: the description of an embedding model."""

    name: str
    """Name of the model."""
    licence: str
    """License of the model, an SPDX identifier."""
    window: int
    """Maximum length of a text, in tokens."""
    dimensions: int
    """Length of a vector."""
    source: str
    """Origin of the ONNX file, as in `embedding.model`."""
    files: dict[str, str]
    """sha256 of each file, by name."""


class TextTooLongError(GraftError):
    """A text has more tokens than the model's maximum length and would have to be truncated."""


class Embedder:
    """An embedding model, loaded from a folder like `build/embedding` after a check of its files.

    Args:
        folder: the model's folder.
        threads: CPU threads that compute one batch.

    Raises:
        GraftError: a file is missing, or differs from its sha256 in `embedding.json`.
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
        """Token ids of each text, with the model's special tokens.

        Raises:
            TextTooLongError: a text has more tokens than the maximum length; the message names its index.
        """
        encoded = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        for index, ids in enumerate(encoded):
            if len(ids) > self.info.window:
                raise TextTooLongError(
                    f"text {index} has {len(ids)} tokens; this model reads at most {self.info.window}: split it"
                )
        return encoded

    def count(self, text: str) -> int:
        """The number of tokens of a text of any length, the model's special tokens included."""
        return len(self._tokenizer.encode(text).ids)

    def embed(self, batch: Sequence[Sequence[int]]) -> Vectors:
        """Unit vectors [texts, dimensions], mean-pooled over each text's token ids."""
        mask = np.zeros((len(batch), max(map(len, batch))), dtype=np.int64)
        ids = np.zeros_like(mask)
        for row, text in enumerate(batch):
            mask[row, : len(text)] = 1
            ids[row, : len(text)] = text
        layer = self._session.last_layer(ids, mask)
        mean = (layer * mask[..., None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
        return (mean / np.linalg.norm(mean, axis=1, keepdims=True)).astype(np.float32)  # type: ignore[no-any-return]


def read_embedding(folder: Path) -> EmbeddingInfo:
    """The description of the embedding model in `folder`, after a check of every byte.

    Raises:
        GraftError: a file is missing, or differs from its sha256 in `embedding.json`.
    """
    return artifact_store.read(folder, INFO, EmbeddingInfo, "retrieval model", "embedding")


def publish(built: Path, root: Path = EMBEDDINGS) -> str:
    """Copy an embedding model into the folder that it is served from; returns its digest.

    Raises:
        GraftError: a file is missing, or differs from its sha256 in `embedding.json`.
    """
    read_embedding(built)
    return artifact_store.publish(built, INFO, root)


class EmbeddingSession:
    """An onnxruntime session with BERT's three inputs; a model may lack the last one (`token_type_ids`)."""

    def __init__(self, model: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self._run = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self._inputs = frozenset(node.name for node in self._run.get_inputs())

    def last_layer(self, ids: Ints, mask: Ints) -> Vectors:
        """Hidden states of the last layer [texts, length, dimensions], for token `ids` and `mask` [texts, length]."""
        feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        (output,) = self._run.run(None, {name: value for name, value in feeds.items() if name in self._inputs})
        return output  # type: ignore[no-any-return]
