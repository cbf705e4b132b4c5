"""Tables of what kept predictions say of a recipe and the reference, image by image and task by task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manyview.compare.table import Results
from manyview.evaluate.report import Cell, Table


def images_table(images: Mapping[str, Any], reference: str) -> Table | None:
    """A row a recipe: what it and the reference say of each image; None where no predictions were kept.

    images: recipe -> `OverImages`, or what stands for one where it was read from a file.
    """
    rows: list[tuple[Cell, ...]] = []
    for name, found in images.items():
        interval = None if found.interval is None else " to ".join(f"{end:+.2f}" for end in found.interval)
        shares = [None if part is None else f"{100 * part:.0f} %" for part in (found.overlap, found.same_error)]
        alone = f"{found.only_this:.1f}", f"{found.only_reference:.1f}"
        unlike = f"{found.unlike} of {found.seeds}"
        rows.append((name, found.images, f"{found.mean:+.2f}", interval, *alone, unlike, *shares))
    columns = ("recipe", "images", f"difference to {reference}", "95 %, seeds and images", "right alone")
    more = (f"{reference} right alone", "McNemar p < 0.05", "errors shared", "with the same answer")
    return Table((*columns, *more), tuple(rows)) if rows else None


def tasks_table(results: Results) -> Table | None:
    """A row a measure, recipe and seed: few-shot tasks in pairs; None where there are none."""
    rows = [
        (measure, name, seed, found.tasks, f"{found.mean:+.2f}", f"{found.low:+.2f} to {found.high:+.2f}")
        for (measure, name), of in results.tasks.items()
        for seed, found in of.items()
    ]
    columns = (
        "measure",
        "recipe",
        "seed",
        "tasks in pairs",
        f"difference to {results.reference.name}",
        "95 %, over tasks",
    )
    return Table(columns, tuple(rows)) if rows else None
