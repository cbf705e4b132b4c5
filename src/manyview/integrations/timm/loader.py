"""timm's training loader, its batches made the views of a recipe by its workers.

Which images come, in which order and in which batches, stays timm's: its sampler is used as it is. Images are read by
timm's data set. What is drawn for an image depends on (seed, epoch, its position in the data set), and what mixes a
batch on the positions in it, so nothing need be remembered: neither workers nor a restart change a view.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, final

import numpy as np
import torch
from PIL import Image
from timm.data.distributed_sampler import RepeatAugSampler
from timm.data.loader import MultiEpochsDataLoader
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from manyview.errors import DataError
from manyview.foundation.words import counted
from manyview.integrations.timm.batch import ViewsBatch
from manyview.recipe.recipe import Recipe
from manyview.views.engine.render import together
from manyview.views.view import draw_views


@final
class ViewsDataset(Dataset[tuple[ViewsBatch, Tensor]]):
    """A data set of (PIL image, label), read a batch at once: `dataset[[3, 5]]` is (its views, labels [2]).

    num_classes: for views that mix labels. Its transform, as timm gives one, is left out: the views take its place.
    Raises DataError for data sets without positions, and, when read, for what is no 8-bit PIL image of the recipe's
    `data.channels` or no integer label.
    """

    def __init__(self, dataset: Any, recipe: Recipe, num_classes: int | None = None) -> None:
        if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
            raise DataError(
                f"{type(dataset).__name__} gives images in a stream, without positions, which draws depend on; "
                "take a data set that is read by position, such as a folder"
            )
        self.dataset = copy.copy(dataset)
        if hasattr(dataset, "transform"):
            self.dataset.transform = None
        self.recipe = recipe
        self.num_classes = num_classes
        self._plan = recipe.seen_views
        # shared memory: persistent workers must see the epoch change
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """The epoch of the draws to come."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, positions: Sequence[int]) -> tuple[ViewsBatch, Tensor]:
        images, targets = zip(*(self.dataset[position] for position in positions), strict=True)
        pixels = together([self._pixels(image) for image in images])
        labels = torch.tensor([_label(target) for target in targets])
        known = None if bool((labels < 0).any()) else labels
        epoch, seed = int(self._epoch), self.recipe.seed
        views = draw_views(self._plan, pixels, known, positions, epoch, seed, self.num_classes)
        return ViewsBatch(views, torch.as_tensor(positions)), labels

    __getitems__ = __getitem__  # by which torch's loader asks for a batch

    def _pixels(self, image: Any) -> Tensor:
        if not isinstance(image, Image.Image):
            raise DataError(
                f"the data set gives {type(image).__name__}, not PIL images, from which views are drawn; "
                "drop its transform"
            )
        pixels = np.array(image)
        if pixels.dtype != np.uint8:
            raise DataError(f"an image of the data set has mode {image.mode}; give 8-bit images, such as RGB")
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        channels, wanted = pixels.shape[2], self.recipe.data.channels or 3
        if channels != wanted:
            raise DataError(
                f"the data set gives images of {counted(channels, 'channel')} ({image.mode}), the recipe has "
                f"{wanted}; set data.channels={channels} there, or have the images converted"
            )
        return torch.from_numpy(pixels).permute(2, 0, 1)


def _label(target: Any) -> int:
    if target is None:
        return -1
    try:
        return int(target.__index__())
    except (AttributeError, TypeError, ValueError):
        raise DataError(f"labels must be whole numbers, one an image, got {target!r}") from None


@final
class ViewsLoader:
    """Batches (ViewsBatch, labels [B]) in the order, and by the workers, of a training loader of timm's.

    loader: what `timm.data.create_loader` gives, or a DataLoader of torch; with timm's prefetcher batches come on its
    device. num_classes: for views that mix labels. Augmentation that was asked of `create_loader` has no effect.
    Raises DataError for data sets and samplers that know no position of an image, or know one several times.
    """

    def __init__(self, loader: Any, recipe: Recipe, num_classes: int | None = None) -> None:
        plain: DataLoader[Any] = getattr(loader, "loader", loader)  # inside timm's prefetcher
        if isinstance(plain, MultiEpochsDataLoader):
            raise DataError("a loader of several epochs reads ahead of set_epoch; drop --use-multi-epochs-loader")
        if isinstance(plain.sampler, RepeatAugSampler):
            raise DataError(
                "repeated augmentation shows an image several times in an epoch, where its views are the same; "
                "drop --aug-repeats, and give a view count=…"
            )
        self.dataset = ViewsDataset(plain.dataset, recipe, num_classes)
        self.device: torch.device | None = getattr(loader, "device", None)
        self._batches: DataLoader[Any] = DataLoader(
            self.dataset,
            batch_sampler=plain.batch_sampler,
            collate_fn=_as_it_is,  # type: ignore[arg-type]  # of what the data set gave at once
            num_workers=plain.num_workers,
            pin_memory=plain.pin_memory,
            worker_init_fn=plain.worker_init_fn,
            persistent_workers=plain.persistent_workers,
            prefetch_factor=plain.prefetch_factor,
            multiprocessing_context=plain.multiprocessing_context,
            generator=plain.generator,
        )

    @property
    def batch_sampler(self) -> Any:
        """timm's."""
        return self._batches.batch_sampler

    @property
    def sampler(self) -> Any:
        """timm's, whose `set_epoch` its script calls."""
        return self.batch_sampler.sampler

    def set_epoch(self, epoch: int) -> None:
        """What timm's script does before each epoch: draws, and the order where a sampler depends on it, follow it."""
        self.dataset.set_epoch(epoch)
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[tuple[ViewsBatch, Tensor]]:
        for views, labels in self._batches:
            yield (
                views.to(self.device, non_blocking=True),
                (labels if self.device is None else labels.to(self.device, non_blocking=True)),
            )


def _as_it_is(batch: tuple[ViewsBatch, Tensor]) -> tuple[ViewsBatch, Tensor]:
    return batch
