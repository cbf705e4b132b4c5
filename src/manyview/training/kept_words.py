"""The words of one's own that a run was made with: a copy of each file in RUN/words/, and words.json of all of them."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manyview.errors import ManyviewWarning, RunError, shown
from manyview.foundation.files import read_json, write_bytes, write_json
from manyview.foundation.vocabulary import Origin, Words

FOLDER, LIST = "words", "words.json"


@dataclass(frozen=True)
class Kept:
    """What a run keeps of one origin. file: its copy, in the run's folder; None of an installed package."""

    name: str
    digest: str
    adds: list[str]
    version: str = ""
    file: str | None = None

    @property
    def called(self) -> str:
        """Its name, and a package's version."""
        return f"{self.name} {self.version}".rstrip()


def keep_words(folder: Path, words: Words) -> None:
    """Writes a run's words into its folder; nothing where there are none. Raises RunError."""
    kept: list[Kept] = []
    for origin in words.origins:
        file = None if origin.source is None else _free(origin.name, [each.file for each in kept])
        if file is not None and origin.source is not None:
            write_bytes(folder / FOLDER / file, origin.source)
        kept.append(Kept(origin.name, origin.digest, origin.said, origin.version, file))
    if kept:
        write_json(folder / FOLDER / LIST, [vars(each) for each in kept])


def kept_words(folder: Path) -> list[Kept]:
    """What a run keeps of words; nothing is loaded of it. Raises RunError for a list that is damaged."""
    path = folder / FOLDER / LIST
    if not path.is_file():
        return []
    try:
        kept = [Kept(**each) for each in read_json(path)]
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{path} is damaged: {error}") from None
    for each in kept:
        texts = [each.name, each.digest, each.version, *(each.adds if isinstance(each.adds, list) else [None])]
        here = each.file is None or (isinstance(each.file, str) and each.file == Path(each.file).name)
        if not here or not all(isinstance(text, str) for text in texts):
            raise RunError(f"{path} is damaged: {shown(vars(each))} is none of what it lists")
    return kept


def check_words(folder: Path, words: Words, exact: bool) -> None:
    """Raises RunError unless the words that a run was made with are given; what has changed is a warning, or an error.

    exact: whether it must be the very same, as where a run goes on or shows what it saw. Code is never loaded from a
    run's folder without being asked for: the line says how to ask.
    """
    kept = kept_words(folder)
    given = {origin.digest for origin in words.origins}
    for each in [each for each in kept if each.digest not in given]:
        changed = _changed(each, words.origins)
        own = _ask(folder, kept)
        if changed is None:
            what = f"{each.called}: {', '.join(each.adds)}"
            raise RunError(f"{folder} was made with words of its own ({what}); give them: {own}")
        other = "the one given" if each.called == changed.label else changed.label
        told = f"{folder} was made with another {each.called} than {other}; its own: {own}"
        if exact:
            raise RunError(told)
        warnings.warn(told, ManyviewWarning, stacklevel=1)


def _changed(kept: Kept, origins: Sequence[Origin]) -> Origin | None:
    """What was given in the place of an origin: of its name, or with one of its words."""
    alike = [each for each in origins if (each.source is None) == (kept.file is None)]
    named = [each for each in alike if each.name == kept.name and {*each.said} & {*kept.adds}]
    return next(iter([*named, *(each for each in origins if {*each.said} & {*kept.adds})]), None)


def _ask(folder: Path, kept: Sequence[Kept]) -> str:
    files = [f"--use {shlex.quote(str(folder / FOLDER / each.file))}" for each in kept if each.file is not None]
    packages = [each.called for each in kept if each.file is None]
    parts = [" ".join(files)] if files else []
    return " and ".join([*parts, *([f"with {', '.join(packages)} installed"] if packages else [])])


def _free(name: str, taken: Sequence[Any]) -> str:
    """The file's name, or that of a second file of the same name: words_2.py."""
    path = Path(name)
    names = [name, *(f"{path.stem}_{number}{path.suffix}" for number in range(2, len(taken) + 2))]
    return next(each for each in names if each not in taken)
