"""Batches as a function of the step number: which images, read and decoded once, and their views where asked.

The order of images depends on (seed, epoch) alone and the batch on the step, so a run sees the same batches with any
number of workers, and after a restart at any step.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from manyview.data.decode import BadImage, scale_for
from manyview.data.images import ArrayImages, Images
from manyview.draws import order_of
from manyview.engine.render import Reduced, Source
from manyview.errors import DataError, ManyviewError
from manyview.views import PlannedView, View, draw_boxes, draw_views, together

AHEAD = 2  # batches that are made while one is in use
GRACE = 30  # seconds that a worker lives on after SIGTERM


@dataclass(frozen=True)
class Batch:
    """One process's part of a step.

    images: uint8 [B, 3, H, W]; or B images of unlike sizes; or rendered views by name. labels, index: int64 [B]; a
    label is -1 where the image has none. skipped: what could not be read, one line each. labelled: whether every image
    has a label; it is kept because looking at labels on a GPU means waiting for it.
    """

    images: Tensor | list[Tensor] | dict[str, View]
    labels: Tensor
    index: Tensor
    epoch: int
    skipped: list[str]
    labelled: bool = True

    @property
    def targets(self) -> Tensor | None:
        """The labels, as a step takes them: None unless every image has one."""
        return self.labels if self.labelled else None

    def to(self, device: torch.device) -> Batch:
        """Images and labels on a device. The index stays: draws are made on the CPU."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """Images and labels in page-locked memory, from which they travel to a GPU while it works."""
        return self._with(torch.Tensor.pin_memory)

    def _with(self, move: Callable[[Tensor], Tensor]) -> Batch:
        images: Any = self.images
        if isinstance(images, Tensor):
            images = move(images)
        elif isinstance(images, dict):
            images = {name: view.moved(move) for name, view in images.items()}
        else:
            images = [move(image) for image in images]
        return replace(self, images=images, labels=move(self.labels))


@dataclass(frozen=True)
class Batches:
    """Batch number n of a run, for one process. Number n is part n % accumulate of update n // accumulate.

    views: the plan to render here; None leaves rendering to the step. classes: how many, for views that
    mix labels. skip: leave out images that cannot be read (and say so) instead of raising. reduced: decode JPEGs no
    larger than their crops need, where all views of the image begin with a crop or a resize.
    """

    images: Images
    batch_size: int
    steps_per_epoch: int
    seed: int
    accumulate: int = 1
    rank: int = 0
    world: int = 1
    views: Mapping[str, PlannedView] | None = None
    classes: int | None = None
    skip: bool = False
    reduced: bool = False

    def positions(self, number: int) -> tuple[int, NDArray[np.int64]]:
        """(epoch, positions of the images) of batch `number`."""
        step, part = divmod(number, self.accumulate)
        epoch, at = divmod(step, self.steps_per_epoch)
        batch = _order(self.seed, epoch, len(self.images))[at * self.batch_size : (at + 1) * self.batch_size]
        share = len(batch) // (self.world * self.accumulate)
        first = (part * self.world + self.rank) * share
        return epoch, batch[first : first + share]

    def beside(self, position: int, epoch: int) -> NDArray[np.int64] | None:
        """Positions of the images that are drawn together with one, itself among them; None if it is left over."""
        order = _order(self.seed, epoch, len(self.images))
        at, within = divmod(int((order == position).nonzero()[0][0]), self.batch_size)
        if at >= self.steps_per_epoch:
            return None
        batch = order[at * self.batch_size : (at + 1) * self.batch_size]
        share = len(batch) // (self.world * self.accumulate)
        together = batch[within // share * share :][:share]
        return together if len(together) == share else None

    def __getitem__(self, number: int) -> Batch:
        epoch, positions = self.positions(number)
        images, kept, skipped = self.read(positions, epoch)
        if not len(kept):
            first = skipped[0] if skipped else "the batch is empty"
            raise DataError(f"no image of a batch could be read; the first: {first}")
        labels = torch.from_numpy(self.images.labels[kept])
        index = torch.from_numpy(self.images.index[kept])
        labelled = not bool((labels < 0).any())
        if isinstance(images, Tensor | list) and self.views is None:
            return Batch(images, labels, index, epoch, skipped, labelled)
        assert self.views is not None
        targets = labels if labelled else None
        try:
            views = draw_views(self.views, images, targets, index, epoch, self.seed, self.classes)
        except DataError as error:
            if error.row is None:
                raise
            name = self.images.name(int(kept[error.row]))
            raise DataError(str(error).replace(f"image {error.row} of the batch", name, 1)) from None
        return Batch(views, labels, index, epoch, skipped, labelled)

    def read(self, positions: NDArray[np.int64], epoch: int) -> tuple[Source, NDArray[np.int64], list[str]]:
        """`read_images` for the views of an epoch, which with `reduced` may need no more than a part of each size."""
        scales = self._scales(positions, epoch)
        if not scales:
            return read_images(self.images, positions, self.skip)
        images, kept, skipped = _read(self.images, positions, self.skip, {p: scale for p, (scale, _) in scales.items()})
        if not any(int(position) in scales for position in kept):
            return together(images), kept, skipped
        whole = [
            scales.get(int(position), (1, tuple(image.shape[-2:])))
            for position, image in zip(kept, images, strict=True)
        ]
        sizes, factors = torch.tensor([size for _, size in whole]), torch.tensor([scale for scale, _ in whole])
        return Reduced(images, sizes, factors), kept, skipped

    def _scales(self, positions: NDArray[np.int64], epoch: int) -> dict[int, tuple[int, tuple[int, int]]]:
        """Of images that may be decoded at a part of their size: position -> (scale, size of the whole)."""
        if not self.reduced or self.views is None:
            return {}
        sizes = {int(p): size for p in positions if (size := self.images.size_of(int(p))) is not None}
        if not sizes:
            return {}
        places = np.array(list(sizes))
        drawn = draw_boxes(
            self.views, torch.tensor(list(sizes.values())), self.images.index[places].tolist(), epoch, self.seed
        )
        if drawn is None:
            return {}
        boxes, outs = drawn
        scales = [scale_for(boxes[row], outs[row]) for row in range(len(places))]
        return {int(p): (scale, sizes[int(p)]) for p, scale in zip(places, scales, strict=True) if scale > 1}


@dataclass(frozen=True)
class _Mistakes:
    """Batches for a worker, which hands over a user's mistake as a value: raised there, torch adds its traceback."""

    batches: Batches

    def __getitem__(self, number: int) -> Batch | ManyviewError:
        try:
            return self.batches[number]
        except ManyviewError as error:
            return error


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return order_of(seed, epoch, count)


def stream(
    batches: Batches, start: int, stop: int, place: str, workers: int = 0, pin: bool = False
) -> Generator[Batch, None, None]:
    """Batches `start` to `stop` in order, made where `data.render` says: by "workers", else by a thread."""
    return load(batches, start, stop, workers, pin) if place == "workers" else load_ahead(batches, start, stop, pin)


def load(batches: Batches, start: int, stop: int, workers: int, pin: bool = False) -> Generator[Batch, None, None]:
    """Batches `start` to `stop`, in order, read ahead by `workers` processes, at most one a core (0: read here).

    Closing the generator ends the workers.
    """
    # batch_size=None: the data set gives whole batches. The sampler is the range of step numbers.
    loader: DataLoader[Batch | ManyviewError] = DataLoader(
        _Mistakes(batches),  # type: ignore[arg-type]
        batch_size=None,
        sampler=range(start, stop),
        num_workers=min(workers, os.cpu_count() or 1),
        pin_memory=pin,
        worker_init_fn=_outlive_signals,
        generator=torch.Generator(),  # or it would take its workers' seed from the generator that dropout draws from
    )
    for batch in loader:
        if isinstance(batch, ManyviewError):
            raise batch
        yield batch


def load_ahead(batches: Batches, start: int, stop: int, pin: bool = False) -> Generator[Batch, None, None]:
    """Batches `start` to `stop`, in order, made by a thread of this process, two ahead of the one in use.

    For images in memory: compiled programs render them outside of Python's lock. Closing the generator ends the thread.
    """

    def make(number: int) -> Batch:
        batch = batches[number]
        return batch.pin_memory() if pin else batch

    with ThreadPoolExecutor(1, thread_name_prefix="manyview-loader") as thread:
        queue = deque(thread.submit(make, number) for number in range(start, min(start + AHEAD, stop)))
        for number in range(start + AHEAD, stop + AHEAD):
            batch = queue.popleft().result()
            if number < stop:
                queue.append(thread.submit(make, number))
            yield batch


def _outlive_signals(worker: int) -> None:
    """Ctrl-C and a scheduler's SIGTERM reach all processes; the main one finishes its step, for which it needs us."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(GRACE))


def read_images(
    images: Images, positions: NDArray[np.int64], skip: bool = False
) -> tuple[Tensor | list[Tensor], NDArray[np.int64], list[str]]:
    """Reads images once: (one tensor if all have one size, else a list; the positions read; lines on those skipped).

    Raises BadImage for an image that cannot be read unless `skip`.
    """
    if isinstance(images, ArrayImages):
        return images.read_many(positions), positions, []
    read, kept, skipped = _read(images, positions, skip, {})
    return together(read), kept, skipped


def _read(
    images: Images, positions: NDArray[np.int64], skip: bool, scales: Mapping[int, int]
) -> tuple[list[Tensor], NDArray[np.int64], list[str]]:
    """`read_images` before images are put together; scales: position -> scale, of those to be read at a part."""
    read, kept, skipped = [], [], []
    for position in map(int, positions):
        try:
            read.append(images.read(position, scales[position]) if position in scales else images.read(position))
            kept.append(position)
        except BadImage as error:
            if not skip:
                raise BadImage(f"{error}; repair it, or leave such images out with data.on_bad_image=skip") from None
            skipped.append(str(error))
    return read, np.asarray(kept, dtype=np.int64), skipped
