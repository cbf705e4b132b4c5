"""Where words of one's own stand: a file `--use` names. It is read here, and nothing of it is run."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from manyview.errors import WordsError, reason, shown
from manyview.foundation.files import at_home, open_regular

ONE_FILE = "words stand in one file, NAME.py"


def read_words(given: str | Path) -> tuple[Path, bytes]:
    """The path and bytes of a words file. Raises WordsError, in one line, for all that is none."""
    path = at_home(given)
    where = f"--use {shown(given)}"
    if path.is_dir():
        raise WordsError(f"{where} is a folder; {ONE_FILE}, or in an installed package with an entry point")
    if not path.exists():
        raise WordsError(f"{where}: there is no such file{_meant(path)}")
    if path.suffix != ".py":
        raise WordsError(f"{where} is no Python file; {ONE_FILE}")
    try:
        with open_regular(path) as file:
            return path, file.read()
    except OSError as error:
        raise WordsError(f"{where} cannot be read: {reason(error)}") from None


def check_files(use: Sequence[str | Path]) -> None:
    """Raises WordsError for the first that is no words file, before anything is imported that takes its time."""
    for each in use:
        read_words(each)


def _meant(path: Path) -> str:
    if path.with_suffix(".py").is_file():
        return f"; did you mean {shown(path.with_suffix('.py'))}?"
    try:
        beside = [each.name for each in path.parent.glob("*.py")]
    except OSError:
        beside = []
    near = difflib.get_close_matches(path.name, beside, n=1)
    return f"; did you mean {shown(path.parent / near[0])}?" if near else ""
