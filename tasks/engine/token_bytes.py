"""The bytes of single tokens: a token may be part of a character, so its text alone may be ambiguous.

Byte-level tokenizers write each byte as a character of its own; those with byte fallback write a
space as `▁` and a byte that has no token as `<0xE2>`. This module decodes no text.
"""

from __future__ import annotations

import json
import re

from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"


class TokenBytes:
    """Maps token ids to bytes; the bytes of a text's tokens in order are its UTF-8."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._added = {index: token.content for index, token in tokenizer.get_added_tokens_decoder().items()}
        self._byte_level = '"ByteLevel"' in json.dumps(json.loads(tokenizer.to_str())["decoder"])
        self._bytes = byte_alphabet()

    def __call__(self, token: int) -> bytes:
        text = self._tokenizer.id_to_token(token)
        if text is None:  # a model's vocabulary is often padded beyond its tokenizer's
            return b""
        if token in self._added:
            return self._added[token].encode()
        if self._byte_level:
            return bytes(self._bytes[character] for character in text)
        if byte := _BYTE.fullmatch(text):
            return bytes([int(byte[1], 16)])
        return str(text).replace(_SPACE, " ").encode()


def byte_alphabet() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for.

    As in GPT-2, a printable byte is its own Latin-1 character, and the other bytes, in order, are the
    characters from U+0100 on.
    """
    alphabet = sorted(ByteLevel.alphabet())
    own = {character: ord(character) for character in alphabet if ord(character) < 256}
    others = [byte for byte in range(256) if byte not in own.values()]
    return own | dict(zip(alphabet[len(own) :], others, strict=True))
