"""Language: careless English stays English, and a short message in another language is noticed."""

from __future__ import annotations

import pytest

from tasks.core.errors import GraftError
from tasks.text.language import language_of, main_language


@pytest.mark.parametrize(
    "text",
    ["pls cancel hl 27764 thx", "klarna?? do u do klarna", "got any musa basjoo left??", "ok", "HL-12345", "", "👍👍"],
)
def test_careless_english_is_english(text: str) -> None:
    assert language_of("en")(text) == "en"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("wo ist meine bestellung", "de"),
        ("où est ma commande ?", "fr"),
        ("¿dónde está mi pedido?", "es"),
        ("gdzie jest moje zamówienie?", "pl"),
        ("где мой заказ", "ru"),
        ("我的订单在哪里", "zh"),
    ],
)
def test_another_language_is_noticed(text: str, code: str) -> None:
    assert language_of("en")(text) == code
    assert language_of(code)(text) == code


def test_an_unknown_code() -> None:
    with pytest.raises(GraftError, match="'english' is not a code"):
        language_of("english")


def test_the_language_of_a_long_text() -> None:
    assert main_language("bonjour, je voudrais savoir quand ma commande sera livrée. merci beaucoup. " * 5) == "fr"
