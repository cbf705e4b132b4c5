"""What the parts of the GPU script share: the device, the clock, images, and what a row of a result is."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import manyview
from manyview.data import open_splits, preload
from manyview.data.images import ArrayImages
from manyview.recipe.recipe import Recipe
from manyview.views.plan import PlannedView, ViewSpec, plan_views

CLASSES = 10
SMALL = "branches.{}.backbone=resnet10t(channels=(4, 8, 8, 8))"
Row = dict[str, Any]
"""what: what was looked at; right: whether a check is as it should be; note: a line beside it; all else: figures."""


@dataclass(frozen=True)
class Bench:
    """tiny: few images and rounds of tiny networks, to see whether it runs. data: the folder of CIFAR-10, if any.

    folder: for runs. until: when, on `time.monotonic`, no new row is to be begun.
    """

    device: torch.device
    tiny: bool
    data: Path | None
    folder: Path
    until: float

    @property
    def left(self) -> float:
        """Seconds until no new row is begun."""
        return self.until - time.monotonic()

    def now(self) -> float:
        """Seconds, once the device has done what it was told."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def seconds(self, work: Callable[[], object], about: float = 0.3) -> float:
        """Of one call: the median of five rounds, each of as many calls as take a fifth of `about` seconds."""
        work()
        if self.tiny:
            began = self.now()
            work()
            return self.now() - began
        began = self.now()
        work()
        count = max(1, round(about / 5 / max(1e-6, self.now() - began)))
        rounds = []
        for _ in range(5):
            began = self.now()
            for _ in range(count):
                work()
            rounds.append((self.now() - began) / count)
        return statistics.median(rounds)

    def autocast(self, precision: str) -> torch.autocast:
        """As training has it."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bf16")

    def peak(self) -> float:
        """GiB since the last call."""
        if self.device.type != "cuda":
            return 0.0
        most = torch.cuda.max_memory_allocated(self.device) / 2**30
        gc.collect()
        torch.cuda.reset_peak_memory_stats(self.device)
        return most

    @cached_property
    def bandwidth(self) -> float:
        """Bytes a second that a copy moves, reading and writing: what memory gives at best."""
        source = torch.zeros(2**20 if self.tiny else 2**30, dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        return 2 * source.numel() / self.seconds(lambda: target.copy_(source))

    @cached_property
    def images(self) -> ArrayImages:
        """CIFAR-10's training images; smooth ones of its size where no data are given."""
        count = 128 if self.tiny else 20_000
        if self.data is None:
            coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 255
            pixels = F.interpolate(coarse, 32, mode="bilinear").to(torch.uint8)
            return ArrayImages(pixels, np.arange(count) % CLASSES, np.arange(count), split="train")
        recipe = manyview.load_recipe("tied_cifar10", f"data.root={self.data}", f"data.limit={count}")
        found = preload(open_splits(recipe.data, 0).train)
        assert isinstance(found, ArrayImages)
        return found

    def recipe(self, name: str, *overrides: str) -> Recipe:
        """A packaged recipe, on a tiny network where that is asked for."""
        if self.tiny:
            plan = manyview.load_recipe(name).branch_plan
            overrides = (*overrides, *(SMALL.format(branch) for branch, spec in plan.items() if spec.ema is None))
        return manyview.load_recipe(name, *overrides)


def plan_of(make: str, views: int = 1) -> dict[str, PlannedView]:
    """One view of the image, or two that are drawn independently."""
    both = {"a": ViewSpec.model_validate({"from": "image", "make": make}), "b": ViewSpec(like="a")}
    return plan_views(dict([*both.items()][:views]))


def textured(count: int, size: tuple[int, int]) -> Tensor:
    """Images of any size, uint8 [count, 3, H, W]: coarse clouds with grain."""
    draw = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 8, 8, generator=draw) * 225
    grain = torch.rand(1, 3, *size, generator=draw) * 30
    return (F.interpolate(coarse, size, mode="bilinear") + grain).to(torch.uint8)
