"""CIFAR-10 to 94 %: a whole run of `cifar10_94.yaml`, its seconds, and the test split, read once at its end."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import manyview
from gpu.bench import Bench, Row

RECIPE = Path(__file__).with_name("cifar10_94.yaml")
GOAL = 94.0
DIGITS = (  # the same loop on what scikit-learn brings, to see whether it runs
    "data={source: digits, limit: 256}",
    "views.a.make=pad_crop(8, padding=1)",
    "branches.net={backbone: cresnet20, normalize: half}",
    "train.epochs=1",
    "train.schedule=cosine()",
    "train.checkpoint_every=1 epoch",
    "train.batch_size=64",
)


def to_94(bench: Bench) -> Iterator[Row]:
    """One row: test top-1, seconds of the updates and of all, when validation first reached the goal."""
    if bench.tiny:
        recipe = manyview.load_recipe(RECIPE, *DIGITS)
    elif bench.data is None:
        yield {"what": "CIFAR-10 to 94 %", "note": "left out: no data; give --data DIR"}
        return
    else:
        recipe = manyview.load_recipe(RECIPE, f"data.root={bench.data}")
    began = time.perf_counter()
    folder = bench.folder / time.strftime("to_94-%Y%m%d-%H%M%S")
    result = manyview.train(recipe, folder, quiet=True)
    took = time.perf_counter() - began
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    reached = [line["epoch"] for line in lines if line.get("val", {}).get("top1", 0) >= GOAL]
    top1 = result["eval"]["top1"]
    yield {
        "what": "digits, one epoch" if bench.tiny else f"CIFAR-10, {result['epochs']:g} epochs of two views",
        "test_top1": top1,
        "seconds": result["seconds"],
        "seconds_with_start_and_judging": took,
        "images_per_second": result["images_per_second"],
        "waits": result["waiting"] / 100,
        "first_epoch_at_94_on_val": min(reached, default=None),
        "right": bench.tiny or top1 >= GOAL,
    }
