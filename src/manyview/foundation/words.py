"""Words for people: numbers with their nouns, and numbers without digits that say nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import takewhile


def counted(number: float, noun: str, plural: str | None = None) -> str:
    """A number and its noun, in the singular or plural.

    >>> [counted(1, "epoch"), counted(1200, "step"), counted(0, "branch"), counted(2.5, "query")]
    ['1 epoch', '1,200 steps', '0 branches', '2.5 queries']
    >>> [counted(6 / 7, "epoch"), counted(1048576.0, "epoch"), counted(133 + 1 / 3, "epoch")]
    ['0.857 epochs', '1,048,576 epochs', '133 epochs']
    """
    shown = f"{number:.3g}" if isinstance(number, float) and number < 100 else f"{number:,.0f}"
    return f"{shown} {noun if shown == '1' else plural or several(noun)}"


def several(noun: str) -> str:
    """The plural of an English noun that has a usual one; of a phrase, that of its last word.

    >>> [several(noun) for noun in ("key", "class", "patch", "policy", "epoch")]
    ['keys', 'classes', 'patches', 'policies', 'epochs']
    """
    if noun.endswith(("s", "x", "ch", "sh")) and not noun.endswith("epoch"):  # whose ch is a k
        return f"{noun}es"
    if noun.endswith("y") and noun[-2:-1] not in tuple("aeiou"):
        return f"{noun[:-1]}ies"
    return f"{noun}s"


def a(noun: object) -> str:
    """A noun with its article, by how it is spelt.

    >>> [a(noun) for noun in ("list", "IterableDataset", "ndarray", "uint8 tensor", "OrderedDict")]
    ['a list', 'an IterableDataset', 'an ndarray', 'a uint8 tensor', 'an OrderedDict']
    """
    said = str(noun)
    vowel = said[:1].lower() in tuple("aeiou") and not re.match(r"u(int|ni|ser)", said.lower())
    return f"{'an' if vowel or said.startswith('nd') else 'a'} {said}"


FEW = 3  # names that stand for many


def few(names: Sequence[str]) -> str:
    """The first names of many."""
    return ", ".join(names[:FEW]) + (", …" if len(names) > FEW else "")


def cut(text: str, most: int) -> str:
    """A text of at most so many letters, the last of which says that there is more."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


BEFORE = 8  # letters of what two texts begin with that are shown


def cut_alike(one: str, other: str, most: int) -> tuple[str, str]:
    """Two texts of at most so many letters; of long ones what both begin with is left out: it is seen where they part.

    >>> cut_alike("a long beginning, then one", "a long beginning, then two", 24)
    ('…g, then one', '…g, then two')
    """
    alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))) - BEFORE
    if alike > 1 and max(len(one), len(other)) > most:
        one, other = (f"…{text[alike:]}" for text in (one, other))
    return cut(one, most), cut(other, most)


def duration(seconds: float) -> str:
    """A duration as a person says it.

    >>> [duration(42), duration(720), duration(12_300)]
    ['42 s', '12 min', '3.4 h']
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
