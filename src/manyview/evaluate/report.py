"""What a protocol found: measures by name, tables, and how to draw them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

Cell = str | int | float | None


@dataclass(frozen=True)
class Table:
    """Rows beneath named columns; the first column says what a row is about. None is an empty cell."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"each row needs {len(self.columns)} cells, one for each of {', '.join(self.columns)}")

    def markdown(self) -> str:
        """The table in Markdown, floats with three decimals."""
        lines = [self.columns, ("---",) * len(self.columns), *(tuple(map(cell, row)) for row in self.rows)]
        return "\n".join("| " + " | ".join(each.replace("|", "\\|") for each in line) + " |" for line in lines)


def cell(value: Cell) -> str:
    """How a table shows a value: floats with three decimals, very small ones with three digits."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.3g}" if 0 < abs(value) < 1e-3 else f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else value


@dataclass(frozen=True)
class Report:
    """What a protocol found on a split.

    measures: name -> value; accuracies are in percent. The name "" is the protocol's main measure, which is shown under
    the protocol's own name. tables: what is behind them, by name. draw: makes the figure that shows them, if any. note:
    what a reader has to know of how they came about. each: what a run keeps of every image or task, by name, small
    arrays [N] that comparisons pair.
    """

    measures: Mapping[str, float]
    tables: Mapping[str, Table] = field(default_factory=dict)
    draw: Callable[[], Figure] | None = None
    note: str = ""
    each: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """What is stored of it: plain values."""
        tables = {name: asdict(each) for name, each in self.tables.items()}
        return {"measures": dict(self.measures), "note": self.note, "tables": tables}
