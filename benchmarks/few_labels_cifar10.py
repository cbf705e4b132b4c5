"""250 labels of CIFAR-10 and 10,000 images without: labels alone, FixMatch, Tied-FixMatch, FreeMatch, at equal steps.

    python benchmarks/few_labels_cifar10.py ROOT OUT [NAME]… [KEY=VALUE]…

ROOT holds CIFAR-10 (see `data.root`); OUT receives the comparison, three seeds of each NAME (by default all), which the
same command continues. Images of 16 px and a small net, so that a run takes some minutes of one core. Prints what
`manyview compare` prints, and then what became of the pseudo-labels: the share that counted, and that was right of
those, over the logged steps of the first and the last fifth of the runs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from manyview.compare.compare import compare

RECIPES = Path(__file__).parent / "few_labels_cifar10"
NAMES = ("supervised", "fixmatch", "tied_fixmatch", "freematch")
PARTS = {"first fifth": (0.0, 0.2), "last fifth": (0.8, 1.0)}  # of a run's steps
CONFIDENT, CORRECT = "pseudo_label/confident", "pseudo_label/correct"


def said(run: Path) -> list[float]:
    """What a run logged of its pseudo-labels in each of PARTS: the share that counted, and the share of those that was
    right; empty where it has none."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    logged = [line for line in lines if CONFIDENT in line.get("measures", {})]
    last = max((line["step"] for line in logged), default=0)
    found = []
    for low, high in PARTS.values():
        measures = [line["measures"] for line in logged if low * last < line["step"] <= high * last]
        counted = sum(each[CONFIDENT] for each in measures)
        right = sum(each[CONFIDENT] * (each[CORRECT] or 0) for each in measures)  # None where no row counted
        found += [counted / len(measures), right / counted] if counted else []
    return found


def main(root: str, out: str, *arguments: str) -> None:
    """Trains what is not there yet and prints the tables."""
    names = [argument for argument in arguments if "=" not in argument] or list(NAMES)
    overrides = [f"data.root={root}", *(argument for argument in arguments if "=" in argument)]
    recipes = [str(RECIPES / f"{name}.yaml") for name in names]
    if compare(recipes, out, seeds=3, budget="own", overrides=overrides) is None:
        return
    columns = [f"{measure}, {part}" for part in PARTS for measure in ("counted", "right of those")]
    print("\n| recipe | " + " | ".join(columns) + " |\n|" + " --- |" * (len(columns) + 1))
    for name in names:
        runs = [found for seed in range(3) if (found := said(Path(out) / "runs" / name / f"seed-{seed}"))]
        if runs:
            means = [sum(values) / len(values) for values in zip(*runs, strict=True)]
            print(f"| {name} | " + " | ".join(f"{100 * mean:.1f} %" for mean in means) + " |")


if __name__ == "__main__":
    main(*sys.argv[1:])
