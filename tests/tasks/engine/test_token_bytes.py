"""Single tokens as bytes: together they are the text, however it is cut."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from tasks.engine.token_bytes import TokenBytes
from tests.conftest import make_tokenizer

TEXT = "Grüße, 植物 🌱\n\x00 end"


def test_a_byte_level_tokenizers_tokens_add_up_to_the_text() -> None:
    tokenizer = make_tokenizer()
    of = TokenBytes(tokenizer)
    assert b"".join(of(token) for token in tokenizer.encode(TEXT).ids) == TEXT.encode()
    assert of(tokenizer.token_to_id("<|im_end|>")) == b"<|im_end|>"
    assert of(100_000) == b""


def test_a_tokenizer_with_byte_fallback_too() -> None:
    pieces = ["<unk>", "▁", "▁a", "a", "b", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("▁", "a")], byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken("<unk>", special=True)])
    of = TokenBytes(tokenizer)
    tokens = tokenizer.encode("b ab ü").ids
    assert b"".join(of(token) for token in tokens) == "b ab ü".encode()
    assert [of(token) for token in tokens[:2]] == [b"b", b" a"]
