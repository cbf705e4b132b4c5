"""What a loop of one's own gives for a batch: taken where it is plain what is meant, else refused in one line.

Kinds, shapes and lengths are looked at in every batch, since that costs nothing. Values are looked at where they lie on
the CPU; on a device, where looking means to wait for it, in the first batch alone.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from manyview.errors import BatchError, brief
from manyview.foundation.words import counted, few
from manyview.views.engine.render import Reduced, Source
from manyview.views.view import View

LAST = 2**63 - 1  # the greatest epoch and index: both are drawn from as int64
ROOM = 1e-3  # by which floats may leave [0, 1]: rounding, not normalisation
PIL = "torchvision.transforms.functional.pil_to_tensor(image)"


@final
class Inputs:
    """The batches of one step. channels: of the images. classes: how many; learns: whether labels are needed."""

    def __init__(self, channels: int, classes: int, learns: bool) -> None:
        self.channels, self.classes, self.learns = channels, classes, learns
        self._seen: set[str] = set()

    def images(self, given: Any) -> Source:
        """Images [B, C, H, W], or B of unlike sizes, uint8 or float32. Raises BatchError."""
        if isinstance(given, Reduced):
            return given
        if isinstance(given, np.ndarray):
            given = self._tensor(given)
        if isinstance(given, Tensor):
            self._check_shape(given, 4, "images")
            found: Source = self._float32(given, "images")
        elif isinstance(given, Sequence) and not isinstance(given, (str, bytes)):
            if any(getattr(each, "ndim", 3) == 4 for each in given):
                raise BatchError(
                    f"images: a {type(given).__name__} of {len(given)}, with whole batches in it; give its parts, as "
                    "in step(batch[0], batch[1], index=…, epoch=…)"
                )
            each = [self._tensor(image, f"image {row}") for row, image in enumerate(given)]
            for row, image in enumerate(each):
                self._check_shape(image, 3, f"image {row}")
            found = [self._float32(image, f"image {row}") for row, image in enumerate(each)]
        else:
            raise BatchError(f"images: {_told(given)}; wanted: uint8 [B, {self.channels}, H, W], or a list of images")
        if not len(found):
            raise BatchError("images: a batch of none")
        return found

    def index(self, given: Any, count: int) -> Tensor:
        """Indices int64 [B] of so many images. Raises BatchError."""
        if given is None:
            raise BatchError(
                "step(images, labels, index=…, epoch=…): draws depend on the images' indices, their places in the data "
                "set"
            )
        found = _whole_numbers(given, "index", "places in the data set").cpu()
        if len(found) != count:
            raise BatchError(f"{counted(count, 'image')} came with {counted(len(found), 'index', 'indices')}")
        if count and (low := int(found.min())) < 0:
            raise BatchError(f"index {low}: indices are places in the data set, counted from 0")
        return found

    def epoch(self, given: Any) -> int:
        """Which passage over the data it is, from 0 on. Raises BatchError."""
        if given is None:
            raise BatchError(
                "step(images, labels, index=…, epoch=…): each epoch draws views anew; say which, from 0 on"
            )
        try:
            found = operator.index(given)
        except (TypeError, ValueError, RuntimeError):
            found = -1
        if not 0 <= found <= LAST or isinstance(given, bool):
            most = " (the greatest is 2**63 - 1)" * (found > LAST)
            raise BatchError(f"epoch is a whole number, from 0 on{most}, got {brief(given)}")
        return found

    def labels(self, given: Any, count: int, device: torch.device) -> Tensor | None:
        """Labels int64 [B], or soft ones [B, classes], on the device of the images; None without. Raises BatchError."""
        if given is None:
            return None
        if isinstance(given, Tensor) and given.is_floating_point() and given.ndim == 2:
            return self._soft_labels(given, count).to(device, non_blocking=True)
        found = _whole_numbers(given, "labels", f"classes from 0 to {self.classes - 1}")
        if len(found) != count:
            raise BatchError(f"{counted(count, 'image')} came with {counted(len(found), 'label')}")
        if self.learns and self._looks(found, "labels"):
            low, high = (int(each) for each in found.aminmax())
            if low < 0 or high >= self.classes:
                bad = low if low < 0 else high
                raise BatchError(
                    f"label {bad} is out of range: there are {self.classes} classes, counted from 0"
                    + (", and each image needs one" if low < 0 else "")
                )
        return found.to(device, non_blocking=True)

    def _soft_labels(self, given: Tensor, count: int) -> Tensor:
        if given.shape != (count, self.classes):
            raise BatchError(f"labels: shape {[*given.shape]}, wanted [{count}] or, soft, [{count}, {self.classes}]")
        if self._looks(given, "soft labels"):
            rows = given.detach().double().sum(dim=1)
            if not bool((given >= 0).all()) or not bool((rows - 1).abs().max() < ROOM):
                raise BatchError("labels: soft ones are shares of classes, at least 0 and 1 in sum; softmax gives such")
        return given

    def views(self, given: Mapping[Any, Any], wanted: Sequence[str]) -> dict[str, View]:
        """The views that are wanted, of those that were made before. Raises BatchError."""
        if given and not {*wanted} & {*given} and not any(isinstance(each, View) for each in given.values()):
            raise BatchError(
                f"images: a mapping of {few([str(key) for key in given])}, none of which is a manyview.View; give its "
                f"parts, as in step(batch[{next(iter(given))!r}], labels, index=…, epoch=…)"
            )
        for name in wanted:
            if name not in given:
                raise BatchError(f"views: {name} is missing; the relations read {', '.join(wanted)}")
            view = given[name]
            if not isinstance(view, View) or not isinstance(view.images, Tensor):
                raise BatchError(f"views: {name} is {_told(view)}; wanted: a manyview.View(images)")
            self._check_shape(view.images, 4, f"view {name}")
            self.pixels(view.images, f"view {name}")
        return {name: given[name] for name in wanted}

    def labelled(self, views: Mapping[str, View], labels: Tensor | None) -> dict[str, View]:
        """The views with these labels [B] of their images. Raises BatchError where views have others of their own.

        Labels that were mixed with their images stay: of what they were mixed, they do not tell.
        """
        for name, view in views.items():
            own = view.target
            if labels is None or own is None or view.mixed or own.dtype.is_floating_point > labels.is_floating_point():
                continue
            given = labels.repeat_interleave(view.members, dim=0)
            if own.shape != given.shape or (self._looks(own, f"labels of {name}") and not torch.equal(own, given)):
                raise BatchError(f"labels: view {name} was made with others, which are part of it; leave labels out")
        return {name: view.labelled(labels) for name, view in views.items()}

    def pixels(self, images: Tensor, what: str) -> None:
        """Raises BatchError unless floats are in [0, 1], and whole numbers uint8."""
        if not images.is_floating_point():
            if images.dtype != torch.uint8:
                raise BatchError(f"{what}: {images.dtype}; grey levels are uint8, as images.to(torch.uint8) gives")
            return
        if not images.numel() or not self._looks(images, what):
            return
        low, high = (float(each) for each in images.detach().aminmax())
        if low != low or high != high:
            raise BatchError(f"{what}: NaN among the pixels")
        if low < -ROOM or high > 1 + ROOM:
            worst = low if -low > high - 1 else high
            if low >= 0 and 2 < high <= 255:
                cure = "these look like grey levels: give them as uint8, or divide by 255"
            elif low > -0.5 and high < 1.5:
                cure = "images.clamp(0, 1) takes off what a filter overshot"
            else:
                cure = "give pixels before Normalize(…); to normalise is the branch's (`normalize:`)"
            raise BatchError(f"{what}: {worst:.3g} among the pixels, which as floats are in [0, 1]; {cure}")

    def _looks(self, tensor: Tensor, what: str) -> bool:
        if tensor.device.type == "cpu":
            return True
        if tensor.device.type == "meta" or what in self._seen:
            return False
        self._seen.add(what)
        return True

    def _tensor(self, image: Any, what: str = "images") -> Tensor:
        if isinstance(image, Tensor):
            return image
        if not isinstance(image, np.ndarray):
            raise BatchError(f"{what}: {_told(image)}; wanted: uint8 [{self.channels}, H, W]")
        if image.dtype.kind not in "fu" or image.dtype.itemsize > 8:
            raise BatchError(f"{what}: {image.dtype}; grey levels are uint8, as images.astype(np.uint8) gives")
        return torch.from_numpy(image if image.flags.writeable and min(image.strides) >= 0 else image.copy())

    def _check_shape(self, images: Tensor, ndim: int, what: str) -> None:
        shape, wanted = [*images.shape], f"[{'B, ' * (ndim == 4)}{self.channels}, H, W]"
        if images.ndim != ndim:
            alone = ndim == 4 and images.ndim == 3 and shape[0] == self.channels
            raise BatchError(f"{what}: shape {shape}, wanted {wanted}{'; one image is images[None]' if alone else ''}")
        if images.shape[-3] == self.channels:
            return
        if images.shape[-1] == self.channels:
            places = "0, 3, 1, 2" if ndim == 4 else "2, 0, 1"
            raise BatchError(f"{what}: shape {shape}, channels last; wanted {wanted}, as permute({places}) gives")
        grey = f"; grey images are told by data.channels={shape[-3]}, or repeated by expand" * (shape[-3] == 1)
        raise BatchError(f"{what}: shape {shape}, wanted {wanted}{grey}")

    def _float32(self, images: Tensor, what: str) -> Tensor:
        self.pixels(images, what)
        return images.float() if images.is_floating_point() else images


def device_of(images: Source) -> torch.device:
    """Where images lie."""
    first = images if isinstance(images, Tensor) else images[0]
    return first.device


def on_one_device(images: Source, device: torch.device, what: str = "images") -> None:
    """Raises BatchError where images lie on another device than what looks at them."""
    found = device_of(images)
    if found != device:
        raise BatchError(
            f"{what} lie on {found}, the step on {device}; call images.to('{device}'), or step.to('{found}')"
        )


def _whole_numbers(given: Any, what: str, wanted: str) -> Tensor:
    """A sequence, array or tensor of whole numbers as int64 [B]. Raises BatchError."""
    convert: Callable[[Any], Tensor] = torch.as_tensor
    try:
        found = given if isinstance(given, Tensor) else convert(np.asarray(given))
    except (TypeError, ValueError, RuntimeError):
        raise BatchError(f"{what}: {_told(given)}; wanted: whole numbers [B], {wanted}") from None
    if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        cure = f"; {what}.argmax(1) of one-hot ones" if found.ndim == 2 else f"; {what}.long() of whole ones"
        raise BatchError(f"{what}: {found.dtype} {[*found.shape]}; wanted: whole numbers [B], {wanted}{cure}")
    if found.ndim != 1:
        cure = f", as {what}.argmax(1) of one-hot ones gives" if found.ndim == 2 else ""
        cure = f", as {what}.flatten() gives" if found.ndim == 2 and found.shape[1] == 1 else cure
        raise BatchError(f"{what}: shape {[*found.shape]}; wanted: whole numbers [B], {wanted}{cure}")
    return found.long()


def _told(value: Any) -> str:
    """What was given, and how it would be right where that is known."""
    kind = f"{type(value).__module__.partition('.')[0]}'s {type(value).__name__}"
    if isinstance(value, Tensor):
        return f"a tensor {[*value.shape]}"
    return f"a PIL image; give {PIL}" if kind.startswith("PIL") else type(value).__name__
