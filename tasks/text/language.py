"""Which language a customer writes, with enough doubt for short and careless messages.

Identification over all of py3langid's 140 languages takes "cancel my stuff plz" for Nigerian
Pidgin. Among the widely used ones, and only when it is surely another than expected, English
support chat is not flagged while a four-word message in German or Spanish is.
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
SURE = 0.6
"""Probability from which another language than the expected one is believed."""
MIN_LETTERS = 8


def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def main_language(text: str) -> str:
    """The code of the language that a long text is mostly in."""
    identifier = _identifier()
    identifier.set_languages(sorted(COMMON))
    return str(identifier.classify(text)[0])


@cache
def language_of(expected: str) -> Callable[[str], str]:
    """A function from text to its language code: `expected`, unless the text is surely in another.

    Raises:
        GraftError: no language has the code `expected`.
    """
    identifier = _identifier()
    if expected not in identifier.labels:
        raise GraftError(f"language: {expected!r} is not a code that can be checked; use one such as en, de or fr")
    identifier.set_languages(sorted(COMMON | {expected}))

    def identify(text: str) -> str:
        # Ideographs say more per letter than an alphabet does.
        if sum(2 if letter > "\u2fff" else 1 for letter in text if letter.isalpha()) < MIN_LETTERS:
            return expected
        found, probability = identifier.classify(text)
        return str(found) if probability >= SURE else expected

    return identify
