"""A data set of Hugging Face and a network of timm, trained by a recipe's method: `manyview.train` from Python.

python examples/hugging_face.py DATASET OUT [KEY=VALUE]…     such as uoft-cs/cifar10 runs/cifar10 train.epochs=10

Where labels stand in several columns, as CIFAR-100's do, keep one: dataset.select_columns(["img", "fine_label"]).
"""

from __future__ import annotations

import sys
from typing import Any

import datasets
import timm

import manyview


def run(dataset: datasets.DatasetDict, out: str, *overrides: str) -> dict[str, Any]:
    """Trains Tied-Augment on a data set's images; returns what result.json holds."""
    recipe = manyview.load_recipe("tied_cifar10", *overrides)
    # as it stands, with its classifier: what it learns is in its own state dict afterwards
    model = timm.create_model("resnet18", num_classes=dataset["train"].features["label"].num_classes)
    result = manyview.train(recipe, out, backbone=model, data=dataset)
    print(f"top-1 {result['eval']['top1']:.2f} %; {result['data']}")
    return result


if __name__ == "__main__":
    if {"-h", "--help"} & {*sys.argv[1:]}:
        print(__doc__)
    elif len(sys.argv) < 3:
        sys.exit(__doc__)
    else:
        run(datasets.load_dataset(sys.argv[1]), *sys.argv[2:])
