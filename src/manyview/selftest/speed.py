"""How fast images come here, against how fast a recipe's step takes them: what will hold a run up."""

from __future__ import annotations

import io
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from manyview.data import Splits, open_splits
from manyview.data.images import Images
from manyview.data.loader import read_images
from manyview.foundation.environment import best_device
from manyview.optimize.optimize import make_optimizer
from manyview.recipe.recipe import Recipe
from manyview.recipe.settings import Data
from manyview.show.plan import visible_data
from manyview.step import Step
from manyview.training.state import State, checkpoint_of

SECONDS = 1.0  # that each is measured for, at least
PHOTOS = 8
SIDES = (375, 500)  # of a photo like ImageNet's, where the recipe's images do not lie here
MEBIBYTE, WRITTEN = 2**20, 64


@dataclass(frozen=True)
class Speed:
    """One thing that a run waits for. rate: how much of it there is a second here, of `unit`; need: what the step asks.

    of: what it was measured on.
    """

    what: str
    rate: float
    need: float
    unit: str
    of: str

    @property
    def margin(self) -> float:
        """How many times what is needed there is; below 1 it holds the step up."""
        return self.rate / self.need if self.need else float("inf")


def speeds(recipe: Recipe, folder: Path | None = None) -> list[Speed]:
    """What a run of the recipe needs, and what there is. folder: on the disk that is measured; by default temporary.

    Raises ManyviewError for what training refuses.
    """
    with tempfile.TemporaryDirectory() as photos:
        splits, _ = visible_data(recipe)
        if splits is None:
            return _speeds(recipe, _photos(recipe, photos).train, 10, "photos of 375x500", folder)
        return _speeds(recipe, splits.train, len(splits.classes), "the recipe's images", folder)


def _speeds(recipe: Recipe, images: Images, classes: int, label: str, folder: Path | None) -> list[Speed]:
    workers = recipe.data.workers or 1
    step = Step(recipe, classes, recipe.train.steps or 1000, pretrained=False)
    device, count = torch.device(best_device()), max(2, min(recipe.train.batch_size, 64))
    where = np.arange(count) % len(images)
    seconds = _step_seconds(recipe, step, images, where, device)
    need = count / seconds
    decode = count / _timed(lambda: read_images(images, where))
    pixels = read_images(images, where)[0]
    told: dict[str, Any] = {"index": range(count), "epoch": 0, "only": step.rendered_views}
    render = count / _timed(lambda: step.views(pixels, **told))
    size = _bytes_an_image(images)
    disk, written = _disk(folder)
    state = checkpoint_of(Path("none"), step, make_optimizer(recipe.train, step), State())
    kept = sum(each.numel() * each.element_size() for each in state["step"].values()) / MEBIBYTE
    of = f"{workers} of data.workers"
    return [
        Speed(
            "disk, read", disk, need * size / MEBIBYTE, "MB/s", f"a file of {WRITTEN} MB, {size / 1024:.0f} kB an image"
        ),
        Speed("decode", decode * workers, need, "images/s", f"{label}, {of}"),
        Speed("render", render * workers, need, "images/s", f"the recipe's views, {of}"),
        # a checkpoint is written once in so many steps; weights, and as much again for what an optimiser keeps
        Speed("disk, write", written, 3 * kept / max(seconds * 100, 1e-9), "MB/s", "a checkpoint every 100 steps"),
        Speed("step", need, need, "images/s", f"{count} images, on {device}"),
    ]


def bottleneck(found: list[Speed]) -> str:
    """What a run will wait for most."""
    first = min(found, key=lambda each: each.margin)
    if first.margin >= 1:
        return "the step itself: images come as fast as it takes them"
    return f"{first.what}: {first.rate:,.0f} {first.unit}, and the step would take {first.need:,.0f}"


def _timed(work: Callable[[], Any]) -> float:
    """Seconds that it takes, the first time left out."""
    work()
    began, times = time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS:
        work()
        times += 1
    return (time.perf_counter() - began) / times


def _step_seconds(recipe: Recipe, step: Step, images: Images, where: Any, device: torch.device) -> float:
    """Seconds of an update on views that are there."""
    labels = None if not recipe.needs_labels else torch.as_tensor(where % max(1, step.num_classes))
    pixels = read_images(images, where)[0]
    views = step.views(pixels, labels, index=range(len(where)), epoch=0, only=step.rendered_views)
    views = {name: view.moved(lambda tensor: tensor.to(device)) for name, view in views.items()}
    step.train().to(device)
    optimizer = make_optimizer(recipe.train, step)
    handle = step.attach(optimizer)

    def update() -> None:
        step(views, None if labels is None else labels.to(device))["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()

    seconds = _timed(update)
    handle.remove()
    step.to("cpu")
    return seconds


def _photos(recipe: Recipe, folder: str) -> Splits:
    """Photos like ImageNet's in size, JPEGs in a folder, in the place of images that do not lie here."""
    random = np.random.default_rng(0)
    for number in range(PHOTOS):
        path = Path(folder) / f"class-{number % 2}" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        coarse = Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        coarse.resize(SIDES[::-1], Image.Resampling.BICUBIC).save(path, quality=90)
    update = {"source": "folder", "root": folder, "val_fraction": 0.0, "limit": None, "labels_per_class": None}
    return open_splits(Data(**{**update, "channels": recipe.data.channels}), recipe.seed)  # type: ignore[arg-type]


def _bytes_an_image(images: Images) -> float:
    """Of a file that holds it, as far as that can be told: a JPEG of its size."""
    pixels = read_images(images, np.arange(1))[0][0]
    if pixels.shape[0] not in (1, 3):
        return float(pixels.numel())
    picture = Image.fromarray(pixels.permute(1, 2, 0).squeeze(-1).numpy())
    held = io.BytesIO()
    picture.save(held, "JPEG", quality=90)
    return float(len(held.getvalue()))


def _disk(folder: Path | None) -> tuple[float, float]:
    """MB a second: read, past what the system keeps in memory where it can be told to, and written to the disk."""
    block = os.urandom(MEBIBYTE)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = Path(place) / "block"
        began = time.perf_counter()
        with path.open("wb") as file:
            for _ in range(WRITTEN):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        written = WRITTEN / (time.perf_counter() - began)
        with path.open("rb") as file:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            began = time.perf_counter()
            while file.read(MEBIBYTE):
                pass
        return WRITTEN / (time.perf_counter() - began), written


__all__ = ["Speed", "bottleneck", "speeds"]
