"""Learning without labels on a part of CIFAR-10, small enough for two CPU cores.

    python benchmarks/self_supervised_cifar10.py ROOT OUT [NAME]… [KEY=VALUE]…

ROOT holds CIFAR-10 (see `data.root`); OUT receives a run for each NAME of `RUNS` (by default all); runs that are there
are read, not trained again. 10,000 training images, 10 epochs, batch 64, resnet10t (timm's ten-layer ResNet, whose
stem takes 32 px to 8) for all: a check that every framework learns, far too short to compare them. Prints a Markdown
table of kNN accuracy on validation over the epochs, from the network as it was initialised on; and draws the curves to
OUT/curves.svg. In `simsiam_symmetric` heavy views pull their standard views as much as they are pulled by them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

import manyview

SGD = "train.optimizer=sgd(lr=0.05, momentum=0.9, weight_decay=5e-4"
SETTING = (
    "data.limit=10000",
    "branches.online.backbone=resnet10t",
    "train.epochs=10",
    "train.batch_size=64",
    "train.schedule=cosine()",
    "train.evaluate_every=1",
    "evaluate=[knn(k=200)]",
)
ADAMW = "train.optimizer=adamw(decay_norms=False, per=64, "
DINO = (  # two global views; the last layer still for an epoch, the teacher's temperature rising for three
    "relations=['dino(z(a), z(b), toward=teacher, teacher_temperature=(0.04, 0.07), warmup=468)']",
    "branches.online.z=dino_head(h, 4096, freeze=156)",
    "branches.teacher.momentum=0.99",
)
EVEN = tuple(f"relations.cosine_{n}.weight=0.25" for n in (2, 3, 4, 5))
RUNS: dict[str, tuple[str, ...]] = {
    "simsiam": ("simsiam_cifar10", f"{SGD}, constant='p')"),
    "byol": ("byol_cifar10", f"{SGD})"),
    "simclr": ("simclr_cifar10", f"{SGD})"),
    "moco": ("moco_cifar10", f"{SGD})", "relations.info_nce.queue=4096", "branches.teacher.momentum=0.99"),
    "swav": ("swav_cifar10", f"{SGD})", "relations.swav.freeze=156"),
    "simsiam_augself": ("simsiam_augself_cifar10", f"{SGD}, constant='p')"),
    "dino": ("dino_cifar10", f"{ADAMW}lr=5e-4, weight_decay=0.04, decay_to=0.4)", *DINO),
    "lejepa": ("lejepa_cifar10", f"{ADAMW}lr=5e-4, weight_decay=5e-4)"),
    "simsiam_dssl": ("simsiam_dssl_cifar10", f"{SGD}, constant='p')"),
    "simsiam_symmetric": ("simsiam_dssl_cifar10", f"{SGD}, constant='p')", *EVEN),
}


def main(root: str, out: str, *arguments: str) -> None:
    """Trains what is not there yet, prints the tables and draws the curves."""
    names = [argument for argument in arguments if "=" not in argument] or list(RUNS)
    overrides = [argument for argument in arguments if "=" in argument]
    curves: dict[str, list[dict[str, Any]]] = {}
    for name in names:
        recipe, *own = RUNS[name]
        loaded = manyview.load_recipe(recipe, f"data.root={root}", *SETTING, *own, *overrides)
        manyview.train(loaded, Path(out) / name, resume=True, quiet=True)
        curves[name] = [json.loads(line) for line in (Path(out) / name / "metrics.jsonl").read_text().splitlines()]
    knn = {
        name: {round(line["epoch"]): line["val"]["knn"] for line in lines if "val" in line}
        for name, lines in curves.items()
    }
    print("| epoch | " + " | ".join(names) + " |\n|" + " --- |" * (len(names) + 1))
    for epoch in next(iter(knn.values())):
        print(f"| {epoch} | " + " | ".join(f"{knn[name].get(epoch, float('nan')):.2f}" for name in names) + " |")

    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8))
    for name, lines in curves.items():
        axes[0].plot(list(knn[name]), list(knn[name].values()), label=name, marker=".")
        for axis, measure in zip(axes[1:], ("z_std_sqrt_d", "effective_rank"), strict=True):
            logged = [line for line in lines if measure in line]
            axis.plot([line["epoch"] for line in logged], [line[measure] for line in logged], label=name, linewidth=1)
    for axis, title in zip(
        axes, ("kNN on validation, %", "z_std · √d", "effective rank of z (batch of 64)"), strict=True
    ):
        axis.set(title=title, xlabel="epoch")
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(Path(out) / "curves.svg")


if __name__ == "__main__":
    main(*sys.argv[1:])
