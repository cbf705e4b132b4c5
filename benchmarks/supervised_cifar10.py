"""The supervised systems side by side on a part of CIFAR-10, small enough for two CPU cores.

    python benchmarks/supervised_cifar10.py ROOT OUT [KEY=VALUE]…

ROOT holds CIFAR-10 (see `data.root`); OUT receives a run a recipe, and runs that are there are read, not trained again.
10,000 training images, 5 epochs, cresnet20 for all: a check that every system trains, far too short to compare them.
Prints a Markdown table: test accuracies of the checkpoint that was best on validation, and speed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import manyview

RECIPES = ("baseline_cifar10", "tied_cifar10", "agmax_cifar10", "jsd_cifar10", "sla_cifar10", "sla_sd_cifar10")
SETTING = ("data.limit=10000", "train.epochs=5", "branches.net.backbone=cresnet20")


def main(root: str, out: str, *overrides: str) -> None:
    """Trains what is not there yet and prints the table."""
    print("| recipe | views | top-1 | aggregated | kNN | val top-1 | images/s | s |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in RECIPES:
        recipe = manyview.load_recipe(name, f"data.root={root}", *SETTING, *overrides)
        result = manyview.train(recipe, Path(out) / name, resume=True, quiet=True)
        measures = result["eval"]
        aggregated = f"{measures['aggregated_top1']:.2f}" if "aggregated_top1" in measures else ""
        print(
            f"| {name} | {result['views_per_image']} | {measures['top1']:.2f} | {aggregated} | {measures['knn']:.2f} | "
            f"{result['val']['top1']:.2f} | {result['images_per_second']:.0f} | {result['seconds']:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
