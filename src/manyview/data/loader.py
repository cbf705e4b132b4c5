"""Batches as a function of their number, and the one stream of them, by workers or by a thread, that all reading uses.

For training a batch is a function of the step number: which images, decoded once, and their views where asked.

The order of images depends on (seed, epoch) alone and the batch on the step, so a run sees the same batches with any
number of workers, and after a restart at any step. What takes the place of an image that cannot be read depends on
that image's place alone (`Batches.instead_of`), so this holds with bad images too, and on any number of processes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import warnings
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import chain
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from manyview.data.batch import Batch
from manyview.data.decode import BadImage, scale_for
from manyview.data.images import ArrayImages, Images, blocks_of, others_of_its_batch
from manyview.data.order import Blocks, epoch_order
from manyview.data.reading import PATIENCE, Desks, LostError, at_desk, handed, watched
from manyview.errors import REQUEUED, DataError, ManyviewError, RunError, WordsError, warn
from manyview.foundation.vocabulary import modules_before, own_fault
from manyview.views.engine.render import Reduced, Source, sizes_of, together
from manyview.views.plan import PlannedView
from manyview.views.view import draw_boxes, draw_views, sample_views

AHEAD = 2  # batches that are made while one is in use
LOOKS_UP = 5.0  # seconds after which it is looked what workers are at, where nothing came
GRACE = 30  # seconds that a worker lives on after SIGTERM
TRIES = 3  # that a batch is read anew, where workers are lost
T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")


class Plan(Protocol[T_co]):
    """What there is to read, by number: `Batches` for training, `Once` for evaluation. It pickles into workers."""

    def __getitem__(self, number: int) -> T_co: ...


@dataclass(frozen=True)
class Batches:
    """Batch number n of a run, for one process. Number n is part n % accumulate of update n // accumulate.

    views: the plan of what to draw here, and with `render` to render; None leaves both to the step. classes: how many,
    for views that mix labels.
    skip: put others in the place of images that cannot be read (and say so) instead of raising. reduced: decode JPEGs
    no larger than their crops need, where all views of the image begin with a crop or a resize. streams: those of the
    other streams, whose batch of a number goes with this one's; each has an order and epochs of its own.
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
    render: bool = True
    skip: bool = False
    reduced: bool = False
    streams: Mapping[str, Batches] = field(default_factory=dict)

    @cached_property
    def _blocks(self) -> Blocks | None:
        return blocks_of(self.images)

    def _order(self, epoch: int) -> NDArray[np.int64]:
        return _order(self.seed, epoch, len(self.images), self._blocks)

    def positions(self, number: int) -> tuple[int, NDArray[np.int64]]:
        """(epoch, positions of the images) of batch `number`."""
        step, part = divmod(number, self.accumulate)
        epoch, at = divmod(step, self.steps_per_epoch)
        batch = self._order(epoch)[at * self.batch_size : (at + 1) * self.batch_size]
        share = len(batch) // (self.world * self.accumulate)
        first = (part * self.world + self.rank) * share
        return epoch, batch[first : first + share]

    def place_of(self, position: int, epoch: int) -> tuple[int, int]:
        """(batch, place in it) of an image in the order of an epoch, both from 0; what fills no batch is left over."""
        order = self._order(epoch)
        return divmod(int((order == position).nonzero()[0][0]), self.batch_size)

    def step_of(self, position: int, epoch: int) -> int | None:
        """The update, counted from 0, that sees an image in an epoch; None if it is left over."""
        at, _ = self.place_of(position, epoch)
        return None if at >= self.steps_per_epoch else epoch * self.steps_per_epoch + at

    def instead_of(self, position: int, epoch: int) -> Iterator[int]:
        """Images for the place of one that cannot be read, in the order in which they are tried.

        First those at the same place in the batches that follow in the epoch, round and round, and among what is left
        over: no two places of a batch have one in common, so none comes twice, whoever makes which part. Then, where
        there is but one batch, or nothing at this place can be read, all others.
        """
        order = self._order(epoch)
        at, within = self.place_of(position, epoch)
        own = np.roll(order[within :: self.batch_size], -at)
        yield from map(int, own[1:])
        others = np.roll(order, -(at * self.batch_size + within))
        yield from map(int, others[~np.isin(others, own)])

    def beside(self, position: int, epoch: int) -> NDArray[np.int64] | None:
        """Positions of the images that are drawn together with one, itself among them; None if it is left over."""
        order = self._order(epoch)
        at, within = self.place_of(position, epoch)
        if at >= self.steps_per_epoch:
            return None
        batch = order[at * self.batch_size : (at + 1) * self.batch_size]
        share = len(batch) // (self.world * self.accumulate)
        together = batch[within // share * share :][:share]
        return together if len(together) == share else None

    def __getitem__(self, number: int) -> Batch:
        made = self._own(number)
        others = {name: batches[number] for name, batches in self.streams.items()}
        return replace(made, streams=others) if others else made

    def _own(self, number: int) -> Batch:
        epoch, positions = self.positions(number)
        images, kept, skipped = self.read(positions, epoch)
        labels = torch.from_numpy(self.images.labels[kept])
        index = torch.from_numpy(self.images.index[kept])
        labelled = not bool((labels < 0).any())
        if isinstance(images, Tensor | list) and self.views is None:
            return Batch(images, labels, index, epoch, skipped, labelled)
        assert self.views is not None
        targets = labels if labelled else None
        try:
            if not self.render:
                drawn = sample_views(self.views, sizes_of(images), index, epoch, self.seed)
                return Batch(images, labels, index, epoch, skipped, labelled, drawn=drawn)
            views = draw_views(self.views, images, targets, index, epoch, self.seed, self.classes)
        except DataError as error:
            if error.row is None:
                raise
            name = self.images.name(int(kept[error.row]))
            raise DataError(str(error).replace(f"image {error.row} of the batch", name, 1)) from None
        return Batch(views, labels, index, epoch, skipped, labelled)

    def read(self, positions: NDArray[np.int64], epoch: int) -> tuple[Source, NDArray[np.int64], list[str]]:
        """`read_images` for the views of an epoch, which with `reduced` may need no more than a part of each size.

        With `skip`, others stand in the place of what cannot be read, so none is missing.
        """
        if isinstance(self.images, ArrayImages):
            return self.images.read_many(positions), positions, []
        scales = self._scales(positions, epoch)
        images: list[Tensor] = []
        kept: list[int] = []
        skipped: list[str] = []
        for place, position in enumerate(map(int, positions)):
            try:
                image, found = self._read_one(position, epoch, scales, skipped)
            except BadImage as error:
                raise BadImage(f"{error}{others_of_its_batch(self.images, positions[place + 1 :])}") from None
            images.append(image)
            kept.append(found)
        read = np.asarray(kept, dtype=np.int64)
        if scales.keys().isdisjoint(kept):
            return together(images), read, skipped
        whole = [scales.get(at, (1, tuple(image.shape[-2:]))) for at, image in zip(kept, images, strict=True)]
        sizes, factors = torch.tensor([size for _, size in whole]), torch.tensor([scale for scale, _ in whole])
        return Reduced(images, sizes, factors), read, skipped

    def _read_one(
        self, position: int, epoch: int, scales: dict[int, tuple[int, tuple[int, int]]], skipped: list[str]
    ) -> tuple[Tensor, int]:
        """An image, or with `skip` the first that can be read in its place, and its position; adds to the two last."""
        bad: list[str] = []
        for tried in chain([position], self.instead_of(position, epoch) if self.skip else ()):
            if bad:
                scales |= self._scales(np.array([tried]), epoch)
            try:
                return _decode(self.images, tried, self.skip, scales[tried][0] if tried in scales else 1), tried
            except BadImage as error:
                if not self.skip:
                    raise
                bad.append(str(error))
                if bad[-1] not in skipped:  # it may stand in for another, too
                    skipped.append(bad[-1])
        others = f"nor could any other of the {len(bad):,} to train on"
        raise DataError(f"no image of a batch could be read; the first: {bad[0]} ({others})")

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


Told = tuple[str, type[Warning], str, int]  # a warning: text, category, file, line


@dataclass(frozen=True)
class _Values:
    """Batches for a worker, which hands over what it has to say as values, for the main process to say.

    A user's mistake that is raised there gets torch's traceback. A warning would be written where a bar of progress is
    drawn, by a copy of streams whose locks another thread may have held when the worker was forked: it would wait for
    ever.
    """

    plan: Plan[Any]
    desks: Desks
    left_out: Mapping[str, str] = field(default_factory=dict)

    def __reduce__(self) -> tuple[Any, ...]:
        return modules_before(self)

    def __getitem__(self, number: int) -> tuple[Any, list[Told]]:
        with warnings.catch_warnings(record=True) as seen, at_desk(self.desks, self.left_out):
            try:
                made = self.plan[number]
            except ManyviewError as error:
                made = error
            except Exception as error:  # of a words file: its line is lost in torch's text of the traceback
                if (own := own_fault(error)) is None:
                    raise
                made = WordsError(own)
        return made, [(str(each.message), each.category, each.filename, each.lineno) for each in seen]


_order = lru_cache(maxsize=4)(epoch_order)  # two epochs of two streams


def stream(
    plan: Plan[T], start: int, stop: int, place: str, workers: int = 0, pin: bool = False, patience: float = PATIENCE
) -> Generator[T, None, None]:
    """Batches `start` to `stop` in order, made where `data.render` says: by "workers", else by a thread."""
    if place == "workers":
        return load(plan, start, stop, workers, pin, patience)
    return load_ahead(plan, start, stop, pin)


def load(
    plan: Plan[T], start: int, stop: int, workers: int, pin: bool = False, patience: float = PATIENCE
) -> Generator[T, None, None]:
    """Batches `start` to `stop`, in order, read ahead by `workers` processes, at most one a core (0: read here).

    patience: seconds that a worker may be at an image. A plan that skips what cannot be read goes on where a worker is
    lost: its batch is read again, without an image that took too long, or at which a second one died. Else, and where
    that helps nothing, RunError. Closing the generator ends the workers.
    """
    told: set[str] = set()  # each text once, whichever worker it came from
    left_out: dict[str, str] = {}
    met: list[str] = []
    tries = 0
    while start < stop:
        lost = None
        with contextlib.closing(_once(plan, start, stop, workers, pin, patience, left_out)) as made:
            try:
                for batch, seen in made:
                    start, tries = start + 1, 0
                    for text, category, file, line in seen:
                        if text not in told:
                            told.add(text)
                            warnings.warn_explicit(text, category, file, line)
                    if isinstance(batch, ManyviewError):
                        raise batch
                    yield batch
            except LostError as error:
                lost = error
        if lost is not None:
            tries += 1
            _go_on(lost, left_out, met, tries, getattr(plan, "skip", False))


def _once(
    plan: Plan[T], start: int, stop: int, workers: int, pin: bool, patience: float, left_out: Mapping[str, str]
) -> Generator[tuple[Any, list[Told]], None, None]:
    workers = max(0, min(workers, os.cpu_count() or 1, stop - start))
    desks = Desks(workers)
    # batch_size=None: the data set gives whole batches. The sampler is the range of step numbers.
    loader: DataLoader[tuple[Any, list[Told]]] = DataLoader(
        _Values(plan, desks, dict(left_out)),  # type: ignore[arg-type]
        batch_size=None,
        sampler=range(start, stop),
        num_workers=workers,
        pin_memory=pin,
        worker_init_fn=_begin_worker,
        timeout=min(patience, LOOKS_UP) if workers else 0,
        generator=torch.Generator(),  # or it would take its workers' seed from the generator that dropout draws from
    )
    return handed(loader, desks, patience)


def _go_on(lost: LostError, left_out: dict[str, str], met: list[str], tries: int, skips: bool) -> None:
    """Tells of a lost worker, and notes what is not to be read any more. Raises RunError where that is no cure."""
    if lost.hung:
        what, cure = f"{lost.name}: reading it {lost.how}", "repair it, leave such images out with "
        cure += "data.on_bad_image=skip, or say data.timeout=SECONDS"
    else:
        at = f", at {lost.name}" if lost.name else ""
        what = f"a process that reads images {lost.how}{at}, perhaps for want of memory (RAM or /dev/shm)"
        cure = "try fewer data.workers, or data.workers=0, which reads in the main process"
    if not skips or not lost.name or tries > TRIES:
        raise RunError(f"{what}; {cure}")
    if lost.hung or lost.name in met:
        left_out[lost.raw] = what
    else:
        met.append(lost.name)
        warn(f"{what}; its batch is read again")


def load_ahead(plan: Plan[T], start: int, stop: int, pin: bool = False) -> Generator[T, None, None]:
    """Batches `start` to `stop`, in order, made by a thread of this process, two ahead of the one in use.

    For images in memory: compiled programs render them outside of Python's lock. Closing the generator ends the thread.
    """

    def make(number: int) -> Any:
        batch: Any = plan[number]
        return batch.pin_memory() if pin else batch

    with ThreadPoolExecutor(1, thread_name_prefix="manyview-loader") as thread:
        queue = deque(thread.submit(make, number) for number in range(start, min(start + AHEAD, stop)))
        for number in range(start + AHEAD, stop + AHEAD):
            batch = queue.popleft().result()
            if number < stop:
                queue.append(thread.submit(make, number))
            yield batch


def _begin_worker(worker: int) -> None:
    """What a worker must not share with the process that it was forked from: its streams, and its way to end."""
    for name, number in (("stdout", 1), ("stderr", 2)):  # new ones, whose locks nobody can have held
        with contextlib.suppress(OSError):  # a service may have closed them
            plain = open(number, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
            setattr(sys, name, plain)
            setattr(sys, f"__{name}__", plain)
    _outlive_signals()


def _outlive_signals() -> None:
    """Ctrl-C and a scheduler's SIGTERM reach all processes; the main one finishes its step, for which it needs us."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(GRACE))
    for number in REQUEUED[1:]:
        signal.signal(number, signal.SIG_IGN)


def read_images(
    images: Images, positions: NDArray[np.int64], skip: bool = False
) -> tuple[Tensor | list[Tensor], NDArray[np.int64], list[str]]:
    """Reads images once: (one tensor if all have one size, else a list; the positions read; lines on those skipped).

    Raises BadImage for an image that cannot be read unless `skip`.
    """
    if isinstance(images, ArrayImages):
        return images.read_many(positions), positions, []
    read, kept, skipped = [], [], []
    for position in map(int, positions):
        try:
            read.append(_decode(images, position, skip))
            kept.append(position)
        except BadImage as error:
            if not skip:
                raise
            skipped.append(str(error))
    return together(read), np.asarray(kept, dtype=np.int64), skipped


def _decode(images: Images, position: int, skip: bool, scale: int = 1) -> Tensor:
    """One image, at a part of its size. Raises BadImage, which tells what may be done where nothing is skipped."""
    try:
        return watched(images, position, scale)
    except BadImage as error:
        if skip:
            raise
        raise BadImage(f"{error}; repair it, or leave such images out with data.on_bad_image=skip") from None
