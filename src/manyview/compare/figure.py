"""A comparison as a figure: every seed's value, and the paired differences with their intervals."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from manyview.compare.table import Results
from manyview.show.display import LABELS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE, NAME, LINE = 40, 26, 0.18  # letters of a line above an axis and beside a row, and the height of a line in inches
INK, POINT, MEAN = "#1b1f24", "#8a94a0", "#0b62a8"


def draw(results: Results) -> Figure:
    """A row a recipe. Left: a point a seed and the mean. Right: differences, thick bootstrap and thin t interval."""
    from matplotlib.figure import Figure

    entries, main = results.comparison.entries, results.main
    label = LABELS.get(main, main)
    titles = [
        lines(f"{label} on {results.comparison.split}: seeds and mean", TITLE),
        lines(f"paired difference to {results.reference.name}: bootstrap (thick), t (thin), 95 %", TITLE),
    ]
    names = [lines(entry.name, NAME) for entry in entries]
    height = 1.1 + LINE * max(map(len, titles)) + sum(max(0.42, LINE * len(name) + 0.1) for name in names)
    figure = Figure(figsize=(10, height), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for row, entry in enumerate(entries):
        score = results.scores.get(main, {}).get(entry.name)
        if score is None:
            left.text(0.02, row, "failed", color=INK, va="center", transform=left.get_yaxis_transform())
            continue
        left.plot(list(score.values.values()), [row] * len(score.values), "o", color=POINT, ms=4, alpha=0.8)
        left.plot([score.mean], [row], "|", color=MEAN, ms=16, mew=2.5)
        found = score.difference
        if found is None:
            continue
        if found.t is not None and found.bootstrap is not None:
            right.plot(found.t, [row, row], "-", color=MEAN, lw=1)
            right.plot(found.bootstrap, [row, row], "-", color=MEAN, lw=4, alpha=0.5, solid_capstyle="butt")
        right.plot([found.mean], [row], "o", color=MEAN, ms=6)
    right.axvline(0, color=INK, lw=0.8)
    left.set_yticks(range(len(entries)), ["\n".join(name) for name in names])
    left.set_ylim(len(entries) - 0.5, -0.5)
    for axes, title in zip((left, right), titles, strict=True):
        axes.set_title("\n".join(title), fontsize=10, parse_math=False)
        axes.grid(axis="x", alpha=0.3)
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "right", "left"]].set_visible(False)
    return figure


def lines(text: str, width: int) -> list[str]:
    """Text in lines of at most so many letters, parted at blanks and behind underscores, else anywhere."""
    found = [""]
    for part in re.findall(r"[^ _]*_|[^ _]+ ?| ", text):
        if found[-1] and len((found[-1] + part).rstrip()) > width:
            found.append("")
        found[-1] += part
        while len(found[-1].rstrip()) > width:
            found[-1:] = [found[-1][:width], found[-1][width:]]
    return [line.strip() for line in found]


def save_svg(figure: Figure, path: Path) -> None:
    """The same figure gives the same file."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "manyview"}):
        figure.savefig(path, format="svg", metadata={"Date": None})
