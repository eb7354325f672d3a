"""Embedding server: the served retrieval model, texts in, vectors out, independent of Ray's handles and HTTP."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np

from deployments.core.loopback import stay_on_loopback
from deployments.core.messages import EmbeddingResult, Refusal
from tasks.core.paths import EMBEDDINGS
from tasks.retrieval.embedder import Embedder, TextTooLongError

_BATCH = 16
"""Texts in one batch: the most work that goes on after the client disconnected."""


class EmbeddingServer:
    """A retrieval model that computes in a thread, beside the event loop."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    async def embed(self, texts: tuple[str, ...]) -> EmbeddingResult | Refusal:
        """The embeddings of at least one text."""
        try:
            ids = await asyncio.to_thread(self._embedder.encode, texts)
        except TextTooLongError as error:
            return Refusal(400, "context_length_exceeded", str(error), param="input")
        batches = [ids[start : start + _BATCH] for start in range(0, len(ids), _BATCH)]
        vectors = [await asyncio.to_thread(self._embedder.embed, batch) for batch in batches]
        return EmbeddingResult(np.concatenate(vectors), sum(map(len, ids)))


class EmbeddingReplica(EmbeddingServer):
    """The Serve deployment: checks and opens a published retrieval model by its digest.

    Raises:
        GraftError: the model is missing, or differs from what was published.
    """

    def __init__(self, digest: str, root: str, threads: int) -> None:
        stay_on_loopback()
        super().__init__(Embedder(Path(root) / EMBEDDINGS / digest, threads))
