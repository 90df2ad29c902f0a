"""What in a prompt is no English, as far as its scripts and its commonest words tell."""

from __future__ import annotations

import itertools

from . import grammar as g
from .lexicon import CANONICAL, COMPANIONS, COMPOUNDS, KIND_OF, SCENERY
from .reading import Reading
from .tokens import FUNCTION_WORDS
from .words import singular

_COMMON = g.words(
    """
    der das dem den des ein eine einen einem einer eines und mit auf im zum zur unter neben für auch nicht ohne ist sind
    rot rote roter rotes roten blau blaue blauer blaues blauen grün grüne gelb gelbe schwarz schwarze schwarzer
    schwarzes weiß weiße weißer weißes weiss weisse weisser braun braune brauner braunes zwei drei

    le la les un une du et avec sur dans pour près devant derrière sous au aux est sont qui deux trois
    rouge rouges bleu bleue vert verte jaune noire blanc blanche
    chien maison arbre oiseau cheval fleur chaise tasse boîte homme femme voiture

    el los las una unos unas y con en del al sobre para por junto dos tres
    rojo roja verde amarillo amarilla azul negro negra blanco blanca marrón
    perro gato casa árbol pájaro caballo flor silla taza caja hombre mujer coche

    il lo gli uno e di della dello nel nella sul sulla su accanto sono che
    rosso rossa blu giallo gialla nero nera bianco bianca
    cane gatto albero uccello cavallo fiore tavolo sedia tazza scatola uomo donna

    o os um uma uns umas com em nas ao lado dois duas vermelho vermelha amarelo amarela preto preta branco branca
    cachorro carro copo caixa cadeira árvore

    een het met op van naast bij rode rood blauw blauwe groen groene geel gele zwart zwarte wit witte twee
    hond kat huis paard bloem stoel doos

    ett och med på av för bredvid røde rød röd rött röda blå blått og ved svart svarta vit vitt gul gult

    i w na z ze obok jest czerwony czerwona czerwone niebieski niebieska niebieskie zielony zielona czarny biały
    bir ve ile kırmızı mavi yeşil siyah beyaz sarı üzerinde
    ja punainen sininen musta valkoinen vihreä és egy piros kék zöld fehér fekete
    dan sebuah merah biru hijau hitam putih kuning di atas yang
    și cu pe roșu albastru
    một và màu đỏ xanh trắng đen trên
    """
)
"""Function words, colours and some objects in languages with Latin letters."""
_CAPITALISED = g.words("hund katze haus baum vogel pferd blume tisch stuhl tasse kiste mann frau kind garten")
"""German nouns; in other languages a word with a capital letter is a name."""
_WEAK = g.words(
    """
    la le les el los las lo il de del di du des der das dem den van het au al un con en op met mit im on dan ja cu pe
    o e y i w z na dos che su rot rouge blanc vert verde negro blanco nero kind casa flor kat
    """
)
"""Of these such as stand in English names and loans ("Rio de Janeiro", "coq au vin"): not enough alone."""
_SHARED = g.words(
    """
    a an as at am do i in is me no on so to by he we for all also man war hat die was under over up out on par per ten
    son pink auto taxi bus hotel baby sofa banana pizza radio
    """
)
"""English words that say nothing about the language, being words of others too."""
_LOANS = g.words(
    """
    café cafés façade piñata piñatas jalapeño jalapeños crème brûlée fiancé fiancée naïve résumé cliché entrée purée
    soufflé rosé déjà voilà touché à décor née matinée séance doppelgänger über açaí papier-mâché mâché sauté éclair
    éclairs pâté crêpe crêpes château vis-à-vis protégé pokémon soirée fête señor señora
    """
)
_ENGLISH = FUNCTION_WORDS | g.DETERMINERS | frozenset(g.NUMBERS) | g.INTENSIFIERS | g.ADJECTIVES
_ENGLISH |= g.VERBS_S | g.VERBS_BASE | g.MEASURES | g.DEPICTIONS | g.POSITIONS | g.ING_NOUNS | g.ED_NOUNS | SCENERY
_NAMES = (*CANONICAL, *KIND_OF, *itertools.chain(*KIND_OF.values(), *COMPANIONS.values()), *COMPANIONS, *COMPOUNDS)
_ENGLISH |= frozenset(word for name in _NAMES for word in name.split())


def other_scripts(reading: Reading) -> tuple[str, ...]:
    """The words in other scripts than Latin, each once; a single Greek letter is a sign like any other."""
    words = (token.surface for token in reading.tokens if token.kind == "foreign")
    return tuple(dict.fromkeys(word for word in words if not (len(word) == 1 and "\u0370" <= word <= "\u03ff")))


def other_language(reading: Reading) -> tuple[str, ...]:
    """The words that give away another language in Latin letters, each once; empty for English.

    They are common words of other languages, at least one of them no part of English names, and more than twice as many
    as the English words; one alone is enough only where there is no English word at all.
    """
    words = [token for token in reading.tokens if token.is_word]
    shouted = "".join(token.surface for token in words).isupper()
    foreign: list[str] = []
    english = 0
    for i, token in enumerate(words):
        plain = shouted or token.surface.islower()
        accented = plain and not token.text.isascii() and token.text not in _LOANS
        common = token.text in _COMMON and (plain or i == 0)
        if accented or common or token.text in _CAPITALISED:
            foreign.append(token.text)
        elif token.text in _ENGLISH or singular(token.text) in _ENGLISH:
            english += token.text not in _SHARED
    distinct = set(foreign)
    enough = len(distinct) > 2 * english and (len(distinct) >= 2 or not english)
    if not enough or distinct <= _WEAK:
        return ()
    return tuple(dict.fromkeys(token.surface for token in words if token.text in distinct))
