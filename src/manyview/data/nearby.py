"""The folder that would be right, where what a source reads lies a folder above `data.root`, right in it, or beside."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from manyview.errors import DataError, shown
from manyview.foundation.words import FEW

MOST = 1000  # entries of a folder that are looked into


def nearby(root: Path, holds: Callable[[Path], bool], called: str = "", say: str = "data.root={}") -> str:
    """What to say of the folders for which `holds` is true: above and below, or beside a root that is not there.

    "" where there are none.
    called: the name of a data set, one of several whose folders may look alike; a folder must have it in its name. say:
    how a recipe names the folder.
    """
    above = root.absolute().parent
    try:
        below = sorted(each for each in islice((root if root.is_dir() else above).iterdir(), MOST) if each.is_dir())
    except OSError:
        below = []
    found = [each for each in (*below, above) if _is_called(each, called) and _true(holds, each)]
    said = [say.format(shlex.quote(shown(each))) for each in found]
    return f"; {' or '.join(said[:FEW])} would be right" if found else ""


def _is_called(folder: Path, name: str) -> bool:
    plain = re.sub(r"[^a-z0-9]", "", folder.name.lower())
    return not name or re.search(rf"{re.escape(name)}(?!\d)", plain) is not None


def _true(holds: Callable[[Path], bool], folder: Path) -> bool:
    try:
        return holds(folder)
    except (OSError, DataError):  # of one that is there in part, or may not be looked into
        return False


__all__ = ["nearby"]
