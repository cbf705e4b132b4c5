"""Where a training step goes on the CPU, and what a compiler, bfloat16 and the layout of images make of it.

    OMP_NUM_THREADS=1 python benchmarks/step_profile.py                          # shares, and the largest kernels
    OMP_NUM_THREADS=1 python benchmarks/step_profile.py --ways [--rounds N]      # ways to compute it, turn by turn
    OMP_NUM_THREADS=1 python benchmarks/step_profile.py --ways --backbone cresnet20 --ways-of plain,bf16

The recipe is `tied_cifar10` with another backbone, both views in one forward pass, on random images; the optimiser is
the recipe's own. Shares are of processor time, on one thread:

    data        reading the batch and rendering its views, as the loader's thread does beside the step
    forward     the backbone
    heads       normalising, the classifier and all else of the branch
    relations   terms, their weights and their sum
    rest        all else of `step(batch)`: what is drawn, checked and handed on
    backward    of everything
    optimizer   the update, and what follows it

The largest kernels are torch.profiler's, self time. `--ways` has each way take a step in turn, the order reversed every
round: ratios are of the same round, to `plain`, which is float32 and channels last, as `manyview train` has it.
`contiguous` is the layout NCHW; `compile` is `train.compile`; `bf16` is `train.precision=bf16`. What compiling costs
once is told apart.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import manyview
from manyview.branches.given import Reader
from manyview.data.images import ArrayImages
from manyview.data.loader import Batches
from manyview.optimize.optimize import make_optimizer
from manyview.step import Step
from step import summary
from views import machine

CLASSES = 10
BACKBONES = ("cresnet20", "resnet18(small=True)", "vit_small_patch16_224(img_size=32, patch_size=4)")
WAYS = ("plain", "contiguous", "bf16", "compile", "compile+bf16")
PARTS = ("data", "forward", "heads", "relations", "rest", "backward", "optimizer")


class Side:
    """A step of the recipe with a backbone, computed in one of the ways. A call is an update; `spent` has its parts."""

    def __init__(self, backbone: str, batch: int, way: str = "plain") -> None:
        overrides = ("branches.net.forward=joint", f"branches.net.backbone={backbone}", f"train.batch_size={batch}")
        recipe = manyview.load_recipe("tied_cifar10", *overrides, "train.steps=1000", "train.epochs=null")
        torch.manual_seed(0)
        self.step = Step(recipe, CLASSES).train()
        self.batches = Batches(images(4 * batch), batch, 4, 0, views=recipe.seen_views, classes=CLASSES)
        self.made = [self.batches[number] for number in range(4)]
        self.bf16 = way.endswith("bf16")
        if way == "contiguous":
            self.step.main.backbone.to(memory_format=torch.contiguous_format)
            self.step.main.reader = Reader(memory_format=torch.contiguous_format)
        self.optimizer = make_optimizer(recipe.train, self.step)
        self.step.attach(self.optimizer)
        self.spent: dict[str, float] = defaultdict(float)
        if way.startswith("compile"):
            self.step.compile_parts()

    def __call__(self, number: int) -> float:
        """An update on a batch; the loss before it."""
        batch = self.made[number % len(self.made)]
        began = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            loss = self.step(batch)["loss"]
        looked = time.process_time()
        loss.backward()
        learnt = time.process_time()
        self.optimizer.step()
        self.optimizer.zero_grad()
        for name, seconds in (
            ("step", looked - began),
            ("backward", learnt - looked),
            ("optimizer", time.process_time() - learnt),
        ):
            self.spent[name] += seconds
        return float(loss.detach())

    def timed(self, name: str, module: nn.Module) -> None:
        """Adds a module's forward passes to `spent`."""
        began = []
        module.register_forward_pre_hook(lambda *given: began.append(time.process_time()))

        def ends(*given: Any) -> None:
            self.spent[name] += time.process_time() - began.pop()

        module.register_forward_hook(ends)


def images(count: int) -> ArrayImages:
    """Random smooth images with labels."""
    coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 255
    pixels = F.interpolate(coarse, 32, mode="bilinear").to(torch.uint8)
    return ArrayImages(pixels, (torch.arange(count) % CLASSES).numpy(), torch.arange(count).numpy(), split="train")


def shares(backbone: str, batch: int, rounds: int) -> tuple[dict[str, float], list[tuple[str, float]]]:
    """(seconds of a step's parts, the largest kernels and their share)."""
    side = Side(backbone, batch)
    side(0)
    side.timed("forward", side.step.main.backbone)
    side.timed("branch", side.step.main)
    for relation in side.step.relations.values():
        side.timed("relations", relation)
    side.spent.clear()
    for number in range(rounds):
        began = time.process_time()
        side.batches[number % 4]
        side.spent["data"] += time.process_time() - began
        side(number)
    spent = {name: seconds / rounds for name, seconds in side.spent.items()}
    spent["heads"] = spent["branch"] - spent["forward"]
    spent["rest"] = spent["step"] - spent["branch"] - spent["relations"]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        side(0)
    kernels = {each.key: each.self_cpu_time_total for each in found.key_averages()}
    whole = sum(kernels.values())
    largest = sorted(kernels, key=lambda key: -kernels[key])[:8]
    return {name: spent[name] for name in PARTS}, [(key, kernels[key] / whole) for key in largest]


def compared(backbone: str, batch: int, rounds: int, ways: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Seconds of a step in each way, the ratio to the first in the same round, and what it cost to begin."""
    sides: dict[str, Callable[[int], float]] = {}
    found: dict[str, dict[str, Any]] = {}
    for way in ways:
        sides[way], began = Side(backbone, batch, way), time.process_time()
        losses = [sides[way](number) for number in range(3)]
        found[way] = {"losses": losses, "begin": time.process_time() - began, "seconds": []}
    for number in range(rounds):
        for way in list(ways)[:: 1 if number % 2 else -1]:
            began = time.process_time()
            sides[way](number)
            found[way]["seconds"].append(time.process_time() - began)
    for way in ways:
        found[way] |= summary(found[way]["seconds"], found[ways[0]]["seconds"])
    return found


def show_shares(spent: Mapping[str, float], kernels: Sequence[tuple[str, float]]) -> None:
    """A table of the parts, and the kernels in a line."""
    step = sum(seconds for name, seconds in spent.items() if name != "data")
    print(f"| {' | '.join(PARTS)} | step, ms |\n| {' | '.join('--:' for _ in PARTS)} | --: |")
    print(f"| {' | '.join(f'{spent[name] / step:.1%}' for name in PARTS)} | {1000 * step:.0f} |\n")
    print("kernels: " + ", ".join(f"{name} {share:.0%}" for name, share in kernels) + "\n", flush=True)


def show_ways(found: Mapping[str, Mapping[str, Any]]) -> None:
    """A table of the ways."""
    print("| way | ms | ratio | 95 % | loss before, after one and two updates | first three steps, s |")
    print("| --- | --: | --: | --- | --- | --: |")
    for way, row in found.items():
        low, high = row["interval"]
        losses = ", ".join(f"{loss:.5f}" for loss in row["losses"])
        print(
            f"| {way} | {1000 * statistics.median(row['seconds']):.0f} | {row['ratio']:.3f} | {low:.3f} to {high:.3f} ",
            end="",
        )
        print(f"| {losses} | {row['begin']:.1f} |", flush=True)
    print()


def main() -> None:
    """Reads the command line, measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", action="append", help=f"as in a recipe; may be repeated. Default: {BACKBONES}")
    parser.add_argument("--batch", type=int, default=16, help="images, so twice as many views")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--ways", action="store_true", help="compare ways to compute a step instead")
    parser.add_argument("--ways-of", default=",".join(WAYS), help="comma-separated; the first is compared with")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    ways = args.ways_of.split(",")
    if missing := [way for way in ways if way not in WAYS]:
        parser.error(f"no way {', '.join(missing)}; ways: {', '.join(WAYS)}")
    torch.set_num_threads(1)
    report: dict[str, Any] = {**machine(), "batch": args.batch, "rounds": args.rounds, "backbones": {}}
    print(f"{report['cpu']}, one thread, torch {torch.__version__}, batch {args.batch}, {args.rounds} rounds\n")
    for backbone in args.backbone or BACKBONES:
        print(f"{backbone}\n", flush=True)
        if args.ways:
            report["backbones"][backbone] = found = compared(backbone, args.batch, args.rounds, ways)
            show_ways(found)
        else:
            spent, kernels = shares(backbone, args.batch, args.rounds)
            report["backbones"][backbone] = {"seconds": spent, "kernels": kernels}
            show_shares(spent, kernels)
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
