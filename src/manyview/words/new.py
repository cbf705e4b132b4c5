"""Skeletons of words of one's own, each with its test: they work as they stand, to be changed line by line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from manyview.errors import RecipeError, RunError, WordsError, unknown
from manyview.foundation.files import write_text
from manyview.foundation.grammar import check_name
from manyview.foundation.vocabulary import TABLES
from manyview.words.check import PACKAGED

KINDS: Mapping[str, str] = {kind: table for table, kind in TABLES.items()}
"""Kind of word -> the table that holds it."""


def write_new(kind: str, name: str, out: Path | None = None) -> tuple[Path, Path]:
    """Writes a commented skeleton of a word, by default NAME.py, and test_NAME.py beside it; returns both paths.

    Raises WordsError for an unknown kind and a name that is taken or none, RunError rather than write over a file.
    """
    if kind not in KINDS:
        raise WordsError(unknown("kind of word", kind, KINDS, "kinds"))
    table = KINDS[kind]
    try:
        check_name(name, f"new {kind}")
    except RecipeError as error:
        raise WordsError(str(error)) from None
    if name in PACKAGED[table]:
        raise WordsError(f"new {kind} {name}: manyview has one of that name already; give yours another")
    path = Path(f"{name}.py") if out is None else out
    if path.suffix != ".py":
        raise WordsError(f"--out {path}: words stand in a Python file, NAME.py")
    test = path.with_name(f"test_{path.name}")
    for each in (path, test):
        if each.exists():
            raise RunError(f"{each} is there already; choose another --out, or move it away")
    said = {"NAME": name, "CLASS": _class_of(name), "FILE": path.name, "test_FILE": test.name}
    write_text(path, _filled(f"{kind}.py.txt", said))
    write_text(test, _filled(f"test_{kind}.py.txt", said))
    return path, test


def _class_of(name: str) -> str:
    """`grey_noise` -> `GreyNoise`."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_")) or name


def _filled(name: str, said: Mapping[str, str]) -> str:
    text = (resources.files("manyview.words") / "skeletons" / name).read_text(encoding="utf-8")
    return re.sub(rf"\b({'|'.join(said)})\b", lambda found: said[found[0]], text)
