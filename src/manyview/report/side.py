"""Runs beside each other: their curves in one chart a measure, and their results in one table."""

from __future__ import annotations

from collections.abc import Sequence

from manyview.evaluate.report import Table
from manyview.foundation.words import duration
from manyview.report.blocks import Block, Chart, Rows
from manyview.report.charts import Line, curves
from manyview.report.told import Told
from manyview.show.display import LABELS, table_row

SHARED = {
    "loss": ("Loss", "{:.4g}"),
    "val/top1": ("Top-1 on validation images, %", "{:.2f}"),
    "val/aggregated_top1": ("Aggregated top-1 on validation images, %", "{:.2f}"),
    "val/knn": ("kNN on validation images, %", "{:.2f}"),
    "lr": ("Learning rate", "{:.3g}"),
    "z_std_sqrt_d": ("Spread of the embeddings, z_std·√d", "{:.3f}"),
    "effective_rank": ("Effective rank of the embeddings", "{:.1f}"),
    "images_per_second": ("Images a second", "{:,.0f}"),
}


def side_by_side(runs: Sequence[tuple[Told, str]], key: str = "side") -> list[Block]:
    """runs: each with the name of its colour; runs of one colour, such as seeds of one recipe, look alike."""
    groups = list(dict.fromkeys(group for _, group in runs))
    charts: list[Chart | None] = []
    for at, (name, (title, form)) in enumerate(SHARED.items()):
        lines = [Line(run.name, run.curves.points.get(name, ()), groups.index(group), group) for run, group in runs]
        charts.append(curves(f"{key}-{at}", title, lines, form))
    return [table(runs), *(chart for chart in charts if chart is not None)]


def table(runs: Sequence[tuple[Told, str]]) -> Rows:
    """A row a run."""
    rows = []
    for run, _ in runs:
        known = run.known
        best = None
        if known.measure is not None and known.best is not None:
            best = (
                f"{LABELS.get(known.measure, known.measure)} {table_row(known.measure, known.best)[1]} ({known.split})"
            )
        epochs = None if known.epochs is None else f"{known.epochs:.4g}"
        took = None if known.seconds is None else duration(known.seconds)
        rows.append((run.name, run.title, known.state, str(known.seed), epochs, best, took))
    return Rows("Runs", Table(("run", "recipe", "state", "seed", "epochs", "best", "time"), tuple(rows)))


__all__ = ["side_by_side"]
