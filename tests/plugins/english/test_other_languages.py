"""Which prompts the rules cannot read."""

from __future__ import annotations

import pytest

from realignkit_plugins.english.other_languages import other_language, other_scripts
from realignkit_plugins.english.reading import Reading


@pytest.mark.parametrize(
    "prompt",
    [
        "eine rote Tasse und eine blaue Kiste",
        "EINE ROTE TASSE",
        "ein Hund in einem Auto",
        "roter Hund",
        "Hund",
        "une tasse rouge sur la table",
        "le chat est sur la table",
        "un chien",
        "una taza roja y una caja azul",
        "perro azul",
        "una tazza rossa e una scatola blu",
        "um copo vermelho e uma caixa azul",
        "een rode kop en een blauwe doos",
        "en röd kopp och en blå låda",
        "czerwony kubek i niebieskie pudełko na stole",
        "kırmızı bir bardak ve mavi bir kutu",
        "červený hrnek a modrá krabice",
    ],
)
def test_other_languages(prompt: str) -> None:
    assert other_language(Reading.of(prompt))


@pytest.mark.parametrize(
    "prompt",
    [
        *("a red cup and a blue box", "cup", "axolotl", "Buckingham Palace", "masterpiece, best quality, 1girl"),
        *("Día de los Muertos altar with candles", "Rio de Janeiro", "film noir detective", "Mont Blanc at sunrise"),
        *("a plate of crème brûlée and café au lait", "coq au vin", "Beyoncé at a café", "Salvador Dalí", "El Greco"),
        *("la la land poster", "Leonardo da Vinci", "vincent van gogh, de stijl", "a pokémon and a piñata", "Ω"),
        *("jack o lantern", "a MIT building", "", "?!", "Tcennis rpacket.", "a man in a hat was on a bus"),
    ],
)
def test_english_is_left_alone(prompt: str) -> None:
    reading = Reading.of(prompt)
    assert not other_language(reading)
    assert not other_scripts(reading)


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("a red 杯子 and a cat", ("杯子",)),
        ("красная чашка", ("красная", "чашка")),
        ("كوب أحمر", ("كوب", "أحمر")),
        ("लाल कप", ("लाल", "कप")),
        ("빨간 컵과 a cup", ("빨간", "컵과")),
        ("a π sign", ()),
        ('a sign that says "出口"', ()),
    ],
)
def test_other_scripts(prompt: str, words: tuple[str, ...]) -> None:
    assert other_scripts(Reading.of(prompt)) == words
