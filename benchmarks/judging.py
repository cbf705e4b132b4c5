"""What judging costs beside the forward passes that it cannot do without.

    OMP_NUM_THREADS=1 python benchmarks/judging.py [--rounds N] [--images N]

    evaluate    features and scores of a split, as `evaluate` and `manyview eval` collect them, beside the backbone in a
                loop over the same batches
    aggregate   the same with scores averaged over four rotations (SLA), beside the backbone on each of the four
    knn         neighbours and votes (k = 200), beside one product of queries and bank

Processor time on one thread, turn by turn; the ratio's median and its 95 % interval.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

import torch

import manyview
from manyview.evaluate.knn import knn_predict
from manyview.evaluate.model import StepModel
from manyview.evaluate.outputs import collect
from manyview.step import Step
from step import summary
from step_profile import CLASSES, images
from views import machine

BATCH, BANK, QUERIES, DIM = 256, 10_000, 1_000, 512
BACKBONES = ("cresnet20", "resnet18(small=True, channels=(16, 32, 64, 128))")


def pairs(backbone: str, count: int) -> Iterator[tuple[str, Callable[[], object], Callable[[], object]]]:
    """(what, ours, the forward passes alone)."""
    given = images(count)
    step = Step(manyview.load_recipe("sla_cifar10", f"branches.net.backbone={backbone}"), CLASSES).eval()
    model, network = StepModel(step), step.main.backbone
    batches = given.pixels.split(BATCH)

    def bare(turns: int) -> None:
        with torch.no_grad():
            for batch in batches:
                pixels = (batch.float() / 255 - step.main.mean) / step.main.std
                for turn in range(turns):
                    turned = torch.rot90(pixels, turn, dims=(2, 3))
                    network(turned.contiguous(memory_format=torch.channels_last))

    yield "evaluate", lambda: collect(model, given), lambda: bare(1)
    yield "aggregate", lambda: collect(model, given, aggregated=True), lambda: bare(4)


def neighbours() -> tuple[str, Callable[[], object], Callable[[], object]]:
    """kNN of random features, and the product alone."""
    draw = torch.Generator().manual_seed(0)
    bank, queries = (torch.randn(rows, DIM, generator=draw) for rows in (BANK, QUERIES))
    labels = torch.arange(BANK) % CLASSES
    return "knn", lambda: knn_predict(queries, bank, labels, CLASSES, 200, 0.1), lambda: queries @ bank.T


def shown(name: str, what: str, ours: Callable[[], object], bare: Callable[[], object], rounds: int) -> str:
    """A row of the table."""
    spent: dict[str, list[float]] = {"ours": [], "bare": []}
    for number in range(rounds + 1):
        for side, work in [("ours", ours), ("bare", bare)][:: 1 if number % 2 else -1]:
            began = time.process_time()
            work()
            spent[side].append(time.process_time() - began)
    found = summary(spent["ours"][1:], spent["bare"][1:])
    low, high = found["interval"]
    times = f"{1000 * found['ours']:.0f} | {1000 * found['peer']:.0f}"
    return f"| {name} | {what} | {times} | {found['ratio']:.3f} ({low:.3f} to {high:.3f}) |"


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--backbone", action="append", help=f"as in a recipe; may be repeated. Default: {BACKBONES}")
    parser.add_argument("--rounds", type=int, default=10)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{machine()['cpu']}, one thread, torch {torch.__version__}, {args.images} images, {args.rounds} rounds\n")
    print("| network | what | ours, ms | alone, ms | ratio |\n| --- | --- | --: | --: | --- |")
    print(shown(f"{QUERIES} of {BANK} rows", *neighbours(), args.rounds), flush=True)
    for backbone in args.backbone or BACKBONES:
        for what, ours, bare in pairs(backbone, args.images):
            print(shown(backbone, what, ours, bare, args.rounds), flush=True)


if __name__ == "__main__":
    main()
