"""What a step sends to other processes, and what it costs: measured on 1, 2 and 4 processes of this machine.

    python benchmarks/scaling.py [--processes 1 2 4] [--only bytes]

Bytes are counted where relations gather rows and where gradients are averaged. Times are the medians of updates of a
ViT of 5.5 million weights on batches of 16 images a process, beside what is predicted from one process's time, the
machine's cores and the time of one all-reduce of as many bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from manyview.foundation.group import join
from manyview.foundation.several import on_several
from manyview.load import parse_recipe
from manyview.optimize.optimize import make_optimizer
from manyview.selftest.cases import CASES, OF_EACH, Case
from manyview.step import Step
from manyview.training.sharding import beside_shards, shard

TIMED = """
views: {a: {from: image, make: "crop(32, scale=(0.4, 1)) | flip(0.5)"}, b: {like: a}}
branches: {net: {backbone: "vit_tiny_patch16_224(img_size=32, patch_size=4)", normalize: half, z: "mlp(h, 512, 128)"}}
relations: ["nt_xent(z(a), z(b))"]
train: {steps: 100, optimizer: "adamw(lr=0.001)"}
"""
UPDATES, IMAGES = 5, 16


def counted_bytes() -> dict[str, int]:
    """Relation -> bytes that a process gives to a gather in one update, forward, for OF_EACH images."""
    found: dict[str, int] = {}
    sent: list[int] = []
    plain = dist.all_gather

    def counting(parts: list[torch.Tensor], rows: torch.Tensor) -> object:
        sent.append(rows.numel() * rows.element_size())
        return plain(parts, rows)

    dist.all_gather = counting
    for name in CASES:
        step = Case(name).step()
        step.attach(make_optimizer(step.recipe.train, step))
        sent.clear()
        step(Case(name).batch(0, 2 * OF_EACH, slice(dist.get_rank() * OF_EACH, (dist.get_rank() + 1) * OF_EACH)))
        found[name] = sum(sent)
    dist.all_gather = plain
    return found


def times(shared: bool) -> dict[str, float]:
    """Seconds of an update, and of an all-reduce of its gradients' bytes."""
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    step = Step(parse_recipe(TIMED), 0, total_steps=100)
    optimizer, mesh, module = make_optimizer(step.recipe.train, step), None, step
    weights = sum(each.numel() for each in step.parameters())
    if shared and world > 1:
        from torch.distributed.device_mesh import init_device_mesh

        mesh = init_device_mesh("cpu", (world,))
        shard(step, optimizer, mesh, bf16=False)
    elif world > 1:
        module = DistributedDataParallel(step)
    images = torch.randint(0, 256, (IMAGES, 3, 32, 32), dtype=torch.uint8)
    seconds, moved = [], []
    with beside_shards(mesh):
        for number in range(UPDATES + 1):
            began = time.perf_counter()
            module(images, index=range(rank * IMAGES, (rank + 1) * IMAGES), epoch=number)["loss"].backward()
            optimizer.step()
            optimizer.zero_grad()
            seconds.append(time.perf_counter() - began)
    block = torch.zeros(weights)
    for _ in range(UPDATES if world > 1 else 0):
        began = time.perf_counter()
        dist.all_reduce(block)
        moved.append(time.perf_counter() - began)
    return {
        "update": statistics.median(seconds[1:]),
        "all_reduce": statistics.median(moved) if moved else 0.0,
        "weights": weights,
    }


def worker(rank: int, world: int, folder: str, what: str) -> None:
    """One process of so many."""
    warnings.simplefilter("ignore")
    if world > 1:
        join()
    found: Mapping[str, float] = counted_bytes() if what == "bytes" else times(what == "shared")
    if rank == 0:
        Path(folder, "found.json").write_text(json.dumps(found))


def measured(world: int, what: str) -> dict[str, float]:
    """What the first of so many processes found."""
    with tempfile.TemporaryDirectory() as folder:
        on_several(world, worker, world, folder, what)
        return json.loads(Path(folder, "found.json").read_text())


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--only", choices=["bytes", "times"])
    asked = parser.parse_args()
    if asked.only != "times":
        print("bytes that a process gives to gathers in an update, for each of its images")
        for name, count in measured(2, "bytes").items():
            print(f"  {name:<24}{count / OF_EACH:>8,.0f}")
    if asked.only != "bytes":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        one = measured(1, "whole")
        print(f"seconds of an update of {one['weights']:,} weights, {IMAGES} images a process, {cores} cores")
        print("  processes   predicted   whole on each   shared out   all-reduce")
        for world in asked.processes:
            whole = one if world == 1 else measured(world, "whole")
            shared = one if world == 1 else measured(world, "shared")
            predicted = one["update"] * max(1, world / cores) + whole["all_reduce"]
            row = (predicted, whole["update"], shared["update"], whole["all_reduce"])
            print(f"  {world:>9}" + "".join(f"{value:>13.3f}" for value in row))


if __name__ == "__main__":
    main()
