"""`/v1/embeddings`: OpenAI's shape, the same keys, limits and rows, and nothing cut in silence.

Also covers `deployments/replicas/embedding.py`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from deployments.app.routing.routing import Routing, ServedEmbedding
from deployments.replicas.embedding import EmbeddingServer
from tasks.core.settings import EmbeddingSettings
from tasks.embedding import bring_in
from tasks.retrieval.embedder import Embedder
from tests.conftest import embedding_source
from tests.deployments.app.test_turn import DIGEST, SERVED, Desk, TellingEngine

MODEL = ServedEmbedding(app="embedding", digest="e" * 64, name="tiny", dimensions=8, since=2)


def with_embedder(desk: Desk, tiny_embedding: Path, folder: Path) -> Desk:
    """The desk, with a retrieval model that reads 20 tokens."""
    settings = EmbeddingSettings(name="tiny", license="MIT", max_length=20, **embedding_source(tiny_embedding))
    bring_in(settings, folder / "embedding")
    desk.backend.embedder = EmbeddingServer(Embedder(folder / "embedding", threads=1))
    desk.turns.routing = Routing(production=DIGEST, served={DIGEST: SERVED}, embedding=MODEL)
    return desk


@pytest.fixture
def desk(tiny_base: Path, tiny_prompts: Path, tiny_embedding: Path, tmp_path: Path) -> Desk:
    return with_embedder(Desk(TellingEngine("ok"), tiny_base, tiny_prompts), tiny_embedding, tmp_path)


async def embed(desk: Desk, given: Any, **options: Any) -> Any:
    async with desk.client() as client:
        return await client.embeddings.create(**{"model": "tiny", "input": given, **options})


def test_texts_become_vectors_in_their_order_with_usage_and_a_row(desk: Desk) -> None:
    async def run() -> None:
        texts = [f"text {number}" for number in range(40)]  # more than are computed together
        many = await embed(desk, texts)  # the client asks for base64
        assert [item.index for item in many.data] == list(range(40))
        assert (many.model, many.usage.prompt_tokens) == (MODEL.digest, sum(map(len, texts)))
        one = await embed(desk, texts[7], encoding_format="float", dimensions=8)
        assert np.allclose(many.data[7].embedding, one.data[0].embedding, atol=1e-6)
        assert np.isclose(np.linalg.norm(one.data[0].embedding), 1)
        assert not np.allclose(many.data[7].embedding, many.data[8].embedding)
        row = desk.rows[-1]
        assert (row.operation, row.digest, row.prompt_tokens, row.completion_tokens) == (
            "embeddings",
            MODEL.digest,
            6,
            None,
        )

    asyncio.run(run())


@pytest.mark.parametrize(
    ("given", "options", "code", "param"),
    [
        (["fits", "x" * 21], {}, "context_length_exceeded", "input"),
        ("", {}, "invalid_value", "input"),
        ([], {}, "invalid_value", "input"),
        ([1, 2], {}, "invalid_value", "input"),
        ("a", {"dimensions": 4}, "invalid_value", "dimensions"),
        ("a", {"encoding_format": "hex"}, "invalid_value", "encoding_format"),
    ],
)
def test_what_cannot_be_embedded_is_400(given: Any, options: dict[str, Any], code: str, param: str, desk: Desk) -> None:
    async def run() -> None:
        with pytest.raises(openai.BadRequestError) as error:
            await embed(desk, given, **options)
        assert (error.value.code, error.value.param) == (code, param)
        assert (desk.rows[-1].status, desk.rows[-1].error) == (400, code)

    asyncio.run(run())


def test_it_is_listed_and_only_it_embeds(desk: Desk) -> None:
    async def run() -> None:
        async with desk.client() as client:
            assert [model.id async for model in client.models.list()] == [DIGEST, MODEL.digest]
            assert (await client.models.retrieve("tiny")).created == MODEL.since
        with pytest.raises(openai.NotFoundError):
            await embed(desk, "a", model="production")
        with pytest.raises(openai.NotFoundError):
            await desk.whole(model="tiny")
        desk.turns.routing = Routing(production=DIGEST, served={DIGEST: SERVED})
        with pytest.raises(openai.NotFoundError) as error:
            await embed(desk, "a")
        assert error.value.code == "model_not_found"

    asyncio.run(run())


def test_keys_and_limits_hold(desk: Desk) -> None:
    async def run() -> None:
        before = desk.turns.limits
        await embed(desk, "a")
        (account,) = before._accounts.values()
        assert (account.open, round(account.requests.level)) == (0, 999)
        desk.turns.body_bytes = 50
        with pytest.raises(openai.APIStatusError) as error:
            await embed(desk, "x" * 50)
        assert error.value.status_code == 413

    asyncio.run(run())
