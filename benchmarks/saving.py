"""What saving costs a run: how long training waits for it, and what is computed beside it.

    OMP_NUM_THREADS=1 python benchmarks/saving.py [--saves 5]

Two runs' states: quickstart's (a ResNet-20, 0.27 million weights, SGD with momentum), which is written at once, and a
ResNet-50's (25.6 million, the same), of which training waits for a copy alone while a thread writes and fsyncs. Updates
are made between the saves, as in a run; times are medians. `beside` is the processor time of that thread, which costs a
step only where training leaves no core free.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

from manyview.load import load_recipe
from manyview.optimize.optimize import make_optimizer
from manyview.step import Step
from manyview.training.saving import Saver, tensors_in
from manyview.training.state import State, checkpoint_of

CASES = {
    "quickstart, 64 images of 8 px": (("quickstart",), 64, 8, 20),
    "ResNet-50, 16 images of 96 px": (("tied_imagenet", "views.a.make.crop.size=96"), 16, 96, 500),
}
"""Name -> recipe, images of a step, their side, steps from save to save: an epoch of digits; of ImageNet 10,009."""


def measured(
    words: tuple[str, ...], images: int, side: int, between: int, saves: int, folder: Path
) -> dict[str, float]:
    """Medians of an update, of what a save lets it wait, and what that is of the steps from one to the next."""
    recipe = load_recipe(*words)
    step = Step(recipe, 10, total_steps=10_000)
    optimizer = make_optimizer(recipe.train, step)
    step.attach(optimizer)
    pixels = torch.randint(0, 256, (images, 3, side, side), dtype=torch.uint8)
    views = step.views(pixels, torch.arange(images) % 10, index=range(images), epoch=0, only=step.rendered_views)
    updates, waits, state = [], [], State()
    began = time.process_time() - time.thread_time()
    with Saver(2) as saver:
        for _ in range(saves + 1):
            for _ in range(3):
                start = time.perf_counter()
                step(views)["loss"].backward()
                optimizer.step()
                optimizer.zero_grad()
                updates.append(time.perf_counter() - start)
            start = time.perf_counter()
            saver.save(folder / "last.pt", checkpoint_of(folder / "last.pt", step, optimizer, state, 2))
            waits.append(time.perf_counter() - start)
    beside = (time.process_time() - time.thread_time() - began) / len(waits)
    size = sum(each.nbytes for each in tensors_in(checkpoint_of(folder / "last.pt", step, optimizer, state, 2)))
    update, wait = statistics.median(updates[1:]), statistics.median(waits[1:])  # the first fetches its memory
    return {
        "megabytes": size / 1e6,
        "update": update,
        "first_wait": waits[0],
        "wait": wait,
        "beside": beside,
        "steps_between": between,
        "percent": 100 * wait / (between * update),
        "percent_with_beside": 100 * (wait + beside) / (between * update),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--saves", type=int, default=5)
    saves = parser.parse_args().saves
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for name, case in CASES.items():
            found = measured(*case, saves, Path(folder))
            print(name, json.dumps({key: round(value, 4) for key, value in found.items()}))


if __name__ == "__main__":
    main()
