"""Runs side by side: what `manyview eval` wrote into their result.json, as one table and one figure.

    python benchmarks/reports.py RUN… --out FILE.svg [--split val|test]

Prints a Markdown table of the measures that all runs have. Draws, a colour a run, the invariance of features op by op,
how well they tell what was done to a pair of views, and accuracy under each corruption. A protocol that was asked with
several settings stands in the table with each, and in the figure with the last.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLORS = ("tab:blue", "tab:orange", "tab:green", "tab:red")
PANELS = {  # protocol -> (its table, column of what is shown, title)
    "invariance": ("ops", "score", "what features ignore: 1 wholly, 0 as another image"),
    "awareness": ("numbers", "R²", "what features tell of a pair of views, R²"),
    "robustness": ("accuracy", "mean", "accuracy under corruptions, %"),
}


def evaluations(run: Path, split: str) -> dict[str, Any]:
    """Call of a protocol -> what was found on the split."""
    found = json.loads((run / "result.json").read_text(encoding="utf-8")).get("evaluations", {})
    return {key.removesuffix(f" on {split}"): value for key, value in found.items() if key.endswith(f" on {split}")}


def short(call: str) -> str:
    """A call without the long lists of its settings."""
    name, _, settings = call.partition("(")
    told = [part for part in settings.rstrip(")").split(", ") if part.startswith(("k=", "shots=", "orbit="))]
    return f"{name}({', '.join(told)})" if told else name


def panel(axes: Axes, runs: dict[str, Any], table: str, column: str, title: str) -> None:
    """Bars of one column of a table, a group a row."""
    height = 0.8 / len(runs)
    for place, (name, tables) in enumerate(runs.items()):
        columns, rows = tables[table]["columns"], tables[table]["rows"]
        value = columns.index(column)
        words = [
            " ".join(str(cell) for cell in row[: 2 if columns[1] == "strength" else 1] if cell is not None)
            for row in rows
        ]
        at = [row + (place - (len(runs) - 1) / 2) * height for row in range(len(rows))]
        axes.barh(at, [row[value] or 0 for row in rows], height, color=COLORS[place % len(COLORS)], label=name)
    axes.set_yticks(range(len(words)), [word.replace("_", " ") for word in words], fontsize=7)
    axes.invert_yaxis()
    axes.set_title(title, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    """Prints the table and draws the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--split", choices=("val", "test"), default="test")
    options = parser.parse_args()
    found = {run.name: evaluations(run, options.split) for run in options.runs}
    shared = [call for call in next(iter(found.values())) if all(call in each for each in found.values())]

    print(f"| measure on {options.split} | {' | '.join(found)} |\n| --- |{' --- |' * len(found)}")
    for call in shared:
        measures = [each[call]["measures"] for each in found.values()]
        for name in measures[0]:
            if all(name in each for each in measures):
                words = f"{short(call)} {name.replace('_', ' ')}".strip()
                print(f"| {words} | {' | '.join(f'{each[name]:.3f}' for each in measures)} |")

    figure = Figure(figsize=(13, 9), layout="constrained")
    for place, (protocol, (table, column, title)) in enumerate(PANELS.items()):
        calls = [call for call in shared if call.partition("(")[0] == protocol]
        if calls:
            runs = {name: each[calls[-1]]["tables"] for name, each in found.items()}
            panel(figure.add_subplot(1, len(PANELS), place + 1), runs, table, column, title)
    if figure.axes:
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(found))
    figure.savefig(options.out, metadata={"Date": None} if options.out.suffix == ".svg" else None)


if __name__ == "__main__":
    main()
