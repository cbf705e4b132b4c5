"""What a model makes of its data: each split goes through the network once, whatever is then measured.

Features are held as float16 where that is exact enough: where no row moves by more than a thousandth of its length,
which is so for all but very large or very small ones. They are rounded before the first use, so that what is measured
does not depend on whether they came from the network or from the cache; and those of many images lie in a file (see
`rows`), which changes no number.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar, final

import numpy as np
from torch import Tensor

from manyview.data import Images, Splits
from manyview.data.images import Ints
from manyview.data.once import Once
from manyview.data.reading import PATIENCE
from manyview.errors import DataError, Unreadable
from manyview.evaluate.crew import Crew, Task
from manyview.evaluate.model import Model
from manyview.evaluate.outputs import Outputs, Progress, batches_of, collect
from manyview.evaluate.rows import MEMORY, Lying

T = TypeVar("T")


class Watch(Protocol):
    """Shows long work while the block lasts; gives f(done, total). `Display.evaluating` is one."""

    def __call__(self, what: str, count: int, unit: str = "images") -> AbstractContextManager[Progress]: ...


@contextlib.contextmanager
def unwatched(what: str, count: int, unit: str = "images") -> Iterator[Progress]:
    """Shows nothing."""
    yield lambda done, total: None


class Entry(Protocol):
    """The place of a model's outputs on some images among those that are kept."""

    @property
    def key(self) -> str:
        """A digest of all that they depend on; it changes as soon as an image or a weight does."""

    def load(self) -> dict[str, Lying] | None:
        """Tensors by name; None if there are none."""

    def store(self, tensors: Mapping[str, Lying]) -> None:
        """Keeps tensors."""


Keeper = Callable[[Model, Images], Entry]


@final
class Features:
    """A model's outputs on its splits, with the weights that it has now: make a new one when they have changed.

    seed: of all that protocols draw. skipped: receives a line on each image that cannot be read, see `collect`. watch:
    shows how far long work is. keeper: where outputs are kept for the next time, unless an image could not be read,
    which then is tried again; None keeps them for this object alone. workers, patience: processes that read images, and
    seconds that one may be at an image, see `data.workers` and `data.timeout`. memory: bytes that each kind of output
    of a split may take in memory; more lie in a file, see `rows`. crew, post: processes that pass these splits through
    the network together, and how their first calls the others to `help`, see `led`.
    """

    def __init__(
        self,
        model: Model,
        splits: Splits,
        *,
        seed: int = 0,
        skipped: list[str] | None = None,
        watch: Watch = unwatched,
        keeper: Keeper | None = None,
        workers: int = 0,
        patience: float = PATIENCE,
        memory: int = MEMORY,
        crew: Crew | None = None,
        post: Callable[[Task], None] | None = None,
    ) -> None:
        self.model, self.splits, self.seed = model, splits, seed
        self.skipped, self.watch, self.keeper, self.workers = skipped, watch, keeper, workers
        self.patience, self.memory, self.crew, self._post = patience, memory, crew, post
        self._known: dict[str, Outputs] = {}
        self._made: dict[Any, Any] = {}

    def on(self, splits: Splits) -> Features:
        """The same model's on other data, which this process alone passes through the network."""
        return Features(
            self.model,
            splits,
            seed=self.seed,
            skipped=self.skipped,
            watch=self.watch,
            keeper=self.keeper,
            workers=self.workers,
            patience=self.patience,
            memory=self.memory,
        )

    @property
    def classes(self) -> int:
        """How many classes the data have."""
        return len(self.splits.classes)

    @property
    def classifies(self) -> bool:
        """Whether the model's scores are of the data's classes: by their names, or if it knows none, their number."""
        labels = self.model.labels
        if labels is None:
            return False
        return labels == self.splits.classes if any(labels) else len(labels) == self.classes

    def images(self, split: str) -> Images:
        """The images of `train`, `val` or `test`. Raises DataError for a split that is not there."""
        images = {"train": self.splits.train, "val": self.splits.val, "test": self.splits.test}.get(split)
        if images is None:
            raise DataError(f"no split '{split}'; this run has {self.splits.note}")
        return images

    def batches(
        self, images: Images, positions: Ints | None = None, batch_size: int = 256, watch: str = ""
    ) -> Iterator[tuple[Tensor | list[Tensor], Ints]]:
        """Images as they are read, and their positions; those that cannot be read are left out where a run says so.

        positions: which, by default all, labelled or not. watch: what to call this in the progress bar.
        """
        wanted = np.arange(len(images)) if positions is None else positions
        plan = Once(images, wanted, batch_size, skip=self.skipped is not None, patience=self.patience)
        with self.watch(watch, len(wanted)) as tick:
            yield from batches_of(plan, self.workers, self.skipped, tick)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` gives, made at the first call with this key: a probe that several protocols use, say."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def of(self, split: str, *, aggregated: bool = False) -> Outputs:
        """The outputs on `train`, `val` or `test`; the first call passes it through the network, or finds it kept.

        Scores are left out where they are not of the data's classes. aggregated: with scores averaged over the model's
        orbit. Raises DataError for a split that is not there or has no labels.
        """
        images = self.images(split)
        known = self._known.get(split)
        if known is None or (aggregated and not known.has_aggregated):
            if not (images.labels >= 0).any():
                raise DataError(f"split '{split}' has no labelled images to evaluate; this run has {self.splits.note}")
            known = self._known[split] = self._collected(split, images, aggregated)
        return known if self.classifies else known.unclassified()

    def help(self, task: Task) -> None:
        """A process's part of a task that the first one posted; it keeps nothing."""
        self._share(self.images(task["split"]), task["aggregated"], None if self.skipped is None else [], None)

    def _collected(self, split: str, images: Images, aggregated: bool) -> Outputs:
        """Outputs found kept, else made, and kept where every image could be read and none changed meanwhile."""
        entry = None if self.keeper is None else self.keeper(self.model, images)
        if entry is not None:
            tensors = entry.load() or {}
            if tensors and not (aggregated and "aggregated" not in tensors):
                return Outputs(**tensors)
        skipped: list[str] | None = None if self.skipped is None else []
        if self._post is not None:
            self._post({"split": split, "aggregated": aggregated})
        with self.watch(split, len(images)) as tick:
            try:
                outputs = self._share(images, aggregated, skipped, tick)
            except Unreadable as error:
                raise Unreadable(f"{error} (split '{split}')") from None
        assert outputs is not None, "only helpers have none"
        if self.skipped is not None:
            self.skipped += skipped or []
        if entry is not None and not skipped and self._unchanged(images, entry):
            entry.store(outputs.tensors())
        return outputs

    def _share(
        self, images: Images, aggregated: bool, skipped: list[str] | None, progress: Progress | None
    ) -> Outputs | None:
        """This process's part of a pass through the network."""
        return collect(
            self.model,
            images,
            aggregated=aggregated,
            workers=self.workers,
            skipped=skipped,
            progress=progress,
            halves=True,
            memory=self.memory,
            crew=self.crew,
            patience=self.patience,
        )

    def _unchanged(self, images: Images, entry: Entry) -> bool:
        """Whether images and weights are still those that the entry was made for."""
        return self.keeper is not None and self.keeper(self.model, images).key == entry.key


__all__ = ["Entry", "Features", "Keeper", "Outputs", "Progress", "Watch", "collect", "unwatched"]
