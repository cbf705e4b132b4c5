"""Augmentations: one family a file, each op `sample -> params -> render`. A new op is one class and one line here."""

from __future__ import annotations

from manyview.augment.blur import Blur
from manyview.augment.color import ChannelPermutation, Grayscale, Jitter, Solarize
from manyview.augment.crop import CenterCrop, Crop, PadCrop, Resize
from manyview.augment.erase import Cutout
from manyview.augment.flip import Flip, Rotate90, VFlip
from manyview.augment.mix import CutMix, MixUp
from manyview.augment.op import Op, Params, ViewParams
from manyview.augment.randaugment import RandAugment

OPS: dict[str, type] = {
    "blur": Blur,
    "center_crop": CenterCrop,
    "channel_permutation": ChannelPermutation,
    "crop": Crop,
    "cutmix": CutMix,
    "cutout": Cutout,
    "flip": Flip,
    "grayscale": Grayscale,
    "jitter": Jitter,
    "mixup": MixUp,
    "pad_crop": PadCrop,
    "randaugment": RandAugment,
    "resize": Resize,
    "rotate90": Rotate90,
    "solarize": Solarize,
    "vflip": VFlip,
}

__all__ = ["OPS", "Op", "Params", "ViewParams"]
