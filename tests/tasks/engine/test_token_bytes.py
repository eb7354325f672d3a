"""Token bytes: the bytes of single tokens add up to the text, wherever it is split into tokens."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from tasks.engine.token_bytes import TokenBytes
from tests.conftest import make_tokenizer

TEXT = "Grüße, 植物 🌱\n\x00 end"


def test_a_byte_level_tokenizers_tokens_add_up_to_the_text() -> None:
    tokenizer = make_tokenizer()
    bytes_of = TokenBytes(tokenizer)
    assert b"".join(bytes_of(token) for token in tokenizer.encode(TEXT).ids) == TEXT.encode()
    assert bytes_of(tokenizer.token_to_id("<|im_end|>")) == b"<|im_end|>"
    assert bytes_of(100_000) == b""


def test_a_tokenizer_with_byte_fallback_too() -> None:
    tokens = ["<unk>", "▁", "▁a", "a", "b", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("▁", "a")], byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken("<unk>", special=True)])
    bytes_of = TokenBytes(tokenizer)
    ids = tokenizer.encode("b ab ü").ids
    assert b"".join(bytes_of(token) for token in ids) == "b ab ü".encode()
    assert [bytes_of(token) for token in ids[:2]] == [b"b", b" a"]
