"""Make ``realignkit_plugins/english/plurals.txt``: plurals that the rules of ``words.py`` get wrong.

    apt-get install wordnet-base && pip install inflect
    python benchmarks/plurals.py /usr/share/wordnet

inflect knows the plurals but takes seconds to import, so it is asked here, once, for the nouns of WordNet 3.0 that
name things or occur in its texts. Where its answer is no noun of WordNet ("rhinocero"), WordNet's own stands.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from pathlib import Path

from realignkit_plugins.english import words

# WordNet's lexicographer files of what a picture can show: animals, artefacts, the body, messages, events, food,
# groups, places, natural objects, persons, phenomena, plants, quantities, shapes, substances.
THINGS = {"05", "06", "08", "10", "11", "13", "14", "15", "17", "18", "19", "20", "23", "25", "27"}
SINGULAR_ENDINGS = ("ss", "us", "is")

_NOTICE = """\
# Made by benchmarks/plurals.py with inflect {version} from the nouns of WordNet 3.0; not edited by hand.
# Plural and singular, one pair a line; a word that only looks like a plural is its own singular.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wordnet", type=Path, help="the folder with index.noun, data.noun, noun.exc and cntlist.rev")
    folder: Path = parser.parse_args().wordnet

    import importlib.metadata

    import inflect

    nouns, frequency, irregular = _nouns(folder), _frequency(folder), _irregular(folder)
    wanted = sorted((nouns & _things(folder)) | (nouns & frequency.keys()), key=lambda noun: (-frequency[noun], noun))
    engine = inflect.engine()

    def singular(plural: str, known: str) -> str:
        if plural in nouns and plural.endswith(SINGULAR_ENDINGS):
            return plural
        found = engine.singular_noun(plural) or plural
        return found if found in nouns else known

    pairs = {noun: singular(noun, irregular.get(noun, noun)) for noun in wanted}
    for noun in wanted:
        plural = _regular(noun)
        if not noun.endswith("s") or noun.endswith(SINGULAR_ENDINGS) or engine.singular_noun(plural) == noun:
            pairs.setdefault(plural, singular(plural, noun))
    for plural, noun in irregular.items():
        if noun in pairs:
            pairs.setdefault(plural, singular(plural, noun))
    kept = {plural: noun for plural, noun in pairs.items() if words.by_rule(plural) != noun}
    print(f"{len(pairs)} words, {len(kept)} of them not by rule")
    license_text = "".join(f"# {line}".rstrip() + "\n" for line in _license(folder))
    lines = "".join(f"{plural} {noun}\n" for plural, noun in sorted(kept.items()))
    notice = _NOTICE.format(version=importlib.metadata.version("inflect"))
    Path(words.__file__).with_name("plurals.txt").write_text(notice + license_text + lines, encoding="utf-8")


def _rows(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("  ")]


def _license(folder: Path) -> list[str]:
    """WordNet's notice, which numbered lines open each of its files with."""
    lines = (folder / "index.noun").read_text(encoding="utf-8").splitlines()
    return [re.sub(r"^ +\d+ ", "", line).strip() for line in lines if line.startswith("  ")]


def _is_plain(word: str) -> bool:
    return word.isalpha() and word.isascii() and word.islower() and len(word) > 2


def _nouns(folder: Path) -> set[str]:
    return {word for row in _rows(folder / "index.noun") if _is_plain(word := row.split()[0])}


def _things(folder: Path) -> set[str]:
    found: set[str] = set()
    for row in _rows(folder / "data.noun"):
        fields = row.split()
        if fields[1] in THINGS:
            found.update(fields[4 : 4 + 2 * int(fields[3], 16) : 2])
    return found


def _frequency(folder: Path) -> Counter[str]:
    """How often WordNet's tagged texts use a noun."""
    found: Counter[str] = Counter()
    for row in _rows(folder / "cntlist.rev"):
        key, _, count = row.split()
        word, _, sense = key.partition("%")
        if sense.startswith("1:"):
            found[word] += int(count)
    return found


def _irregular(folder: Path) -> dict[str, str]:
    rows = (row.split() for row in _rows(folder / "noun.exc"))
    return {plural: noun for plural, noun, *_ in rows if _is_plain(plural) and _is_plain(noun)}


def _regular(noun: str) -> str:
    if noun.endswith(("s", "x", "z", "ch", "sh")):
        return f"{noun}es"
    return f"{noun[:-1]}ies" if re.search("[^aeiou]y$", noun) else f"{noun}s"


if __name__ == "__main__":
    main()
