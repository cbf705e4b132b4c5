"""Whole updates of two packaged recipes, as `manyview train` makes them but for logs, evaluation and checkpoints."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import torch

from gpu.bench import CLASSES, Bench, Row
from manyview.data.loader import Batches, stream
from manyview.optimize.optimize import make_optimizer
from manyview.step import Step

# recipe, images of a batch, precision, where views are made, compiled; what matters most first
SETTINGS = (
    ("tied_cifar10", 128, "bf16", "device", False),
    ("simsiam_cifar10", 512, "bf16", "device", False),
    ("tied_cifar10", 512, "bf16", "device", False),
    ("tied_cifar10", 128, "fp32", "device", False),
    ("simsiam_cifar10", 512, "fp32", "device", False),
    ("tied_cifar10", 512, "bf16", "memory", False),
    ("simsiam_cifar10", 512, "bf16", "memory", False),
    ("tied_cifar10", 512, "bf16", "device", True),
    ("simsiam_cifar10", 512, "bf16", "device", True),
)


def updates(bench: Bench) -> Iterator[Row]:
    """A row a setting: images a second, the share of the time that the loop waited, and the peak of memory."""
    for setting in SETTINGS:
        if bench.left <= 0:
            return
        if not (bench.tiny and setting[-1]):
            yield update_row(bench, *setting)


def update_row(bench: Bench, name: str, batch: int, precision: str, place: str, compiled: bool) -> Row:
    """cuDNN is as `manyview train` has it, deterministic."""
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
    size = 8 if bench.tiny else batch
    recipe = bench.recipe(name, f"train.batch_size={size}")
    bench.peak()
    torch.manual_seed(0)
    step = Step(recipe, CLASSES, total_steps=100_000).train().to(bench.device)
    if compiled:
        step.compile_parts()
    optimizer = make_optimizer(recipe.train, step)
    step.attach(optimizer)
    views = None if place == "device" else recipe.seen_views
    batches = Batches(bench.images, size, len(bench.images) // size, 0, views=views, classes=CLASSES)
    warm, wanted = (1, 1) if bench.tiny else (8, 1.5)
    began = waited = 0.0
    done = 0
    with closing(stream(batches, 0, 10**6, place, pin=bench.device.type == "cuda")) as parts:
        for number, (got, part) in enumerate(timed(parts)):
            there = part.to(bench.device)
            with bench.autocast(precision):
                out = step(there.images, there.targets, index=there.index.tolist(), epoch=there.epoch)
            out["loss"].backward()
            optimizer.step()
            optimizer.zero_grad()
            if number == warm:
                began = bench.now()
            elif number > warm:
                waited += got
                done += 1
                # the loop runs ahead of the device: whether time is up is asked of it now and then alone
                if bench.tiny or (done % 10 == 0 and bench.now() - began > wanted):
                    break
        seconds = (bench.now() - began) / done
    how = f"views by {place}{', compiled' if compiled else ''}"
    return {
        "what": f"{name}, batch {size}, {precision}, {how}",
        "ms": 1000 * seconds,
        "images_per_second": size / seconds,
        "waits": waited / done / seconds,
        "peak_gib": bench.peak(),
        "right": bool(torch.isfinite(out["loss"].detach())),
    }


def timed(parts: Iterator[Any]) -> Iterator[tuple[float, Any]]:
    """Each part, and how long it was waited for."""
    while True:
        asked = time.perf_counter()
        try:
            part = next(parts)
        except StopIteration:
            return
        yield time.perf_counter() - asked, part
