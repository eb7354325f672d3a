"""Language identification of customers' messages, robust to short and careless ones.

Identification over all of py3langid's 140 languages takes "cancel my stuff plz" for Nigerian
Pidgin. With the widely used languages alone, and with a minimum probability for any language but the
expected one, English support chat is not flagged while a four-word message in German or Spanish is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from tasks.core.errors import GraftError

# fmt: off
COMMON = frozenset((
    "ar", "bg", "cs", "da", "de", "el", "en", "es", "et", "fi", "fr", "he", "hi", "hr", "hu", "id", "it", "ja",
    "ko", "lt", "lv", "nl", "no", "pl", "pt", "ro", "ru", "sk", "sl", "sv", "th", "tr", "uk", "vi", "zh",
))
# fmt: on
MIN_PROBABILITY = 0.6
"""The lowest probability, 0 to 1, at which another language than the expected one is accepted."""
MIN_LETTERS = 8
"""A text with fewer letters counts as the expected language."""


def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def main_language(text: str) -> str:
    """The code of the main language of a long text."""
    identifier = _identifier()
    identifier.set_languages(sorted(COMMON))
    return str(identifier.classify(text)[0])


@cache
def language_of(expected: str) -> Callable[[str], str]:
    """A function from text to its language code: `expected`, unless another one reaches `MIN_PROBABILITY`.

    Raises:
        GraftError: no language has the code `expected`.
    """
    identifier = _identifier()
    if expected not in identifier.labels:
        raise GraftError(f"language: {expected!r} is not a code of a supported language; use one such as en, de or fr")
    identifier.set_languages(sorted(COMMON | {expected}))

    def identify(text: str) -> str:
        # Ideographs count twice, because each one carries more information than a letter of an alphabet.
        if sum(2 if letter > "\u2fff" else 1 for letter in text if letter.isalpha()) < MIN_LETTERS:
            return expected
        language, probability = identifier.classify(text)
        return str(language) if probability >= MIN_PROBABILITY else expected

    return identify
