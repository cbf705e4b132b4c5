"""A plan's view graph as a file: SVG as `plan.svg` writes it, PNG and PDF drawn alike by matplotlib."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from manyview.foundation.files import write_bytes, write_text
from manyview.recipe.recipe import Recipe
from manyview.show.pictures import DRAWINGS, check_name
from manyview.show.plan import BOX, EDGE, FILL, HEIGHT, INK, MARGIN, PALE, cut, layout, svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POINTS = 72  # an inch


def save_graph(recipe: Recipe, path: Path) -> None:
    """Writes SVG, PNG or PDF, as the file's name says. Raises RunError."""
    check_name(path, DRAWINGS, "--svg")
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("png", "pdf"):
        write_text(path, svg(recipe))
        return
    drawn = BytesIO()
    metadata = {"CreationDate": None} if kind == "pdf" else None
    figure(recipe).savefig(drawn, format=kind, dpi=2 * POINTS, metadata=metadata)
    write_bytes(path, drawn.getvalue())


def figure(recipe: Recipe) -> Figure:
    """The view graph, a unit of the axes a point."""
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyBboxPatch, PathPatch
    from matplotlib.path import Path as Curve

    drawn = layout(recipe)
    made = Figure(figsize=(drawn.width / POINTS, drawn.height / POINTS), facecolor="white")
    axes = made.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, drawn.width), ylim=(drawn.height, 0))
    axes.axis("off")
    axes.text(MARGIN, MARGIN, recipe.title, fontsize=12, fontweight="bold", color=INK, parse_math=False)
    for start, end, dashed in drawn.edges:
        curve = Curve(drawn.bend(start, end), [Curve.MOVETO, *[Curve.CURVE4] * 3])
        axes.add_patch(PathPatch(curve, fill=False, edgecolor=EDGE, linestyle=(0, (5, 4)) if dashed else "-"))
    for node in drawn.nodes:
        x, y = drawn.at[node.key]
        style = "round,pad=0,rounding_size=7"
        axes.add_patch(FancyBboxPatch((x, y), BOX, HEIGHT, style, facecolor=FILL[node.kind], edgecolor=EDGE))
        up = HEIGHT / 2 + 4 if not node.below else 16
        axes.text(x + 10, y + up, cut(node.label, 27), fontsize=11, color=INK, parse_math=False)
        if node.below:
            axes.text(x + 10, y + 30, cut(node.below, 36), fontsize=8, color=PALE, parse_math=False)
    return made
