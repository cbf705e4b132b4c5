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

from manyview.data.items import label_of
from manyview.errors import DataError, ManyviewError
from manyview.foundation.words import a, counted
from manyview.integrations.timm.batch import ViewsBatch
from manyview.recipe.recipe import Recipe
from manyview.views.engine.render import together
from manyview.views.plan import mixes
from manyview.views.view import draw_views

# modes of 8 bits a channel, and what holds them where channels are counted
MODES = {"1": "L", "P": "RGB", **{mode: mode for mode in ("L", "LA", "RGB", "RGBA", "CMYK")}}


@final
class ViewsDataset(Dataset[tuple[ViewsBatch, Tensor]]):
    """A data set of (PIL image, label), read a batch at once: `dataset[[3, 5]]` is (its views, labels [2]).

    num_classes: for views that mix labels. Its transform, as timm gives one, is left out: the views take its place.
    Raises DataError for data sets without positions, and, when read, for what is no 8-bit PIL image of the recipe's
    `data.channels`, no integer label or, where the recipe learns from labels, none of a class.
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
        self._learns, self._mixes = bool(recipe.needs_labels), mixes(self._plan)
        # shared memory: persistent workers must see the epoch change
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """The epoch of the draws to come."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, positions: Sequence[int]) -> tuple[ViewsBatch, Tensor]:
        images, targets = zip(*(self.dataset[position] for position in positions), strict=True)
        names = [f"image {position} of the data set" for position in positions]
        pixels = together([self._pixels(image, name) for image, name in zip(images, names, strict=True)])
        labels = torch.tensor([label_of(target, name) for target, name in zip(targets, names, strict=True)])
        self._check_labels(labels.tolist(), names)
        known = None if bool((labels < 0).any()) else labels
        epoch, seed = int(self._epoch), self.recipe.seed
        try:
            views = draw_views(self._plan, pixels, known, positions, epoch, seed, self.num_classes)
        except DataError as error:
            if error.row is None:
                raise
            told = str(error).replace(f"image {error.row} of the batch", names[error.row], 1)
            raise DataError(told) from None
        return ViewsBatch(views, torch.as_tensor(positions)), labels

    def __getitems__(self, positions: Sequence[int]) -> tuple[ViewsBatch, Tensor] | ManyviewError:
        """What torch's loader asks for; a worker hands over what is wrong as a value, which has no traceback."""
        try:
            return self[positions]
        except ManyviewError as error:
            return error

    def _check_labels(self, labels: Sequence[int], names: Sequence[str]) -> None:
        """Raises DataError for labels that are no classes, where views mix them or relations learn from them."""
        for label, name in zip(labels, names, strict=True):
            if label < 0 and self._learns:
                raise DataError(f"{name} has the label {label}, none, and the recipe learns from labels; leave it out")
            if self.num_classes and label >= self.num_classes and (self._learns or self._mixes):
                classes = counted(self.num_classes, "class")
                raise DataError(
                    f"{name} has the label {label}, and there are {classes}, counted from 0; num_classes "
                    "(--num-classes in timm's script) says how many"
                )

    def _pixels(self, image: Any, name: str) -> Tensor:
        """As timm reads it, uint8 [C, H, W]: not turned upright, RGB unless the recipe has `data.channels`."""
        if not isinstance(image, Image.Image):
            raise DataError(
                f"{name} is {a(type(image).__name__)}, not a PIL image, of which views are drawn; drop the data set's "
                "transform"
            )
        if image.mode not in MODES:
            raise DataError(f"{name} has the mode {image.mode}; give images of 8 bits, such as RGB")
        channels = self.recipe.data.channels
        pixels = np.array(image.convert("RGB" if channels is None else MODES[image.mode]))
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        if channels not in (None, pixels.shape[2]):
            raise DataError(
                f"{name} has {counted(pixels.shape[2], 'channel')} ({image.mode}), but data.channels is {channels}"
            )
        return torch.from_numpy(pixels).permute(2, 0, 1)


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
            collate_fn=_as_it_is,  # the data set gives whole batches
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
        for made in self._batches:
            if isinstance(made, ManyviewError):
                raise made
            views, labels = made
            if self.device is not None:
                views, labels = (each.to(self.device, non_blocking=True) for each in made)
            yield views, labels


def _as_it_is(made: Any) -> Any:
    return made
