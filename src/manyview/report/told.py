"""What a run's files say, as it may be relied on: a missing or damaged value is None, never an error of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manyview.errors import ManyviewError, RunError, reason, shown
from manyview.evaluate.report import Table
from manyview.foundation.files import read_mapping
from manyview.recipe.find import text_of_run
from manyview.report.blocks import Block, Text
from manyview.report.curves import Curves, read_curves
from manyview.training.noted import read_noted
from manyview.training.registry import Known, known_of, number, numbers

MOST_ROWS = 60
"""Of a table that some file holds."""


@dataclass(frozen=True)
class Told:
    """A run as its files tell it.

    name: how the page calls it. text: its recipe. result: of result.json, empty while it goes on. splits: of
    splits.json.
    """

    folder: Path
    name: str
    known: Known
    text: str
    result: Mapping[str, Any]
    splits: Mapping[str, Any]
    curves: Curves

    @property
    def title(self) -> str:
        """Of its recipe."""
        return self.known.recipe or "untitled"


def tell(folder: Path, name: str) -> Told:
    """Reads a run's files. Raises ManyviewError for a folder that is no run, or whose recipe is damaged."""
    text = text_of_run(folder)
    result = _json(folder / "result.json")
    try:
        known = known_of(folder, name)
    except (ValueError, TypeError) as error:
        raise RunError(f"{folder} is damaged: {error}") from None
    noted = folder / "splits.json"
    splits = read_noted(noted) if noted.is_file() else {}
    return Told(folder, name, known, text, result, splits, read_curves(folder / "metrics.jsonl"))


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return read_mapping(path)
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is damaged: {reason(error)}") from None


def mapping(value: object) -> dict[str, Any]:
    """A mapping of names, empty for all else."""
    return dict(value) if isinstance(value, Mapping) else {}


def table(value: object) -> Table | None:
    """A table as reports are stored; None for what is none."""
    given = mapping(value)
    columns, rows = given.get("columns"), given.get("rows")
    if not isinstance(columns, list) or not isinstance(rows, list) or not columns:
        return None
    plain = (str, int, float, type(None))
    kept = [tuple(row) for row in rows if isinstance(row, list) and len(row) == len(columns)]
    kept = [tuple(each if isinstance(each, plain) else str(each) for each in row) for row in kept]
    return Table(tuple(map(str, columns)), tuple(kept))


def guarded(what: str, make: Callable[[], Sequence[Block]]) -> list[Block]:
    """The blocks, or a line that says why there are none."""
    try:
        return list(make())
    except ManyviewError as error:
        return [Text(f"{what}: {shown(error)}", told=True)]


__all__ = ["MOST_ROWS", "Told", "guarded", "mapping", "number", "numbers", "table", "tell"]
