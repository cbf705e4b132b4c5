"""The ops by name: a new op is one class and one line here. What is made of several ops stands in `OPS` alone."""

from __future__ import annotations

from manyview.augment.affine import Affine, Rotate, Shear, Translate
from manyview.augment.augmix import AugMix
from manyview.augment.autoaugment import AutoAugment
from manyview.augment.blur import Blur
from manyview.augment.color import (
    Brightness,
    ChannelPermutation,
    Color,
    Contrast,
    Grayscale,
    Invert,
    Jitter,
    Solarize,
    SolarizeAdd,
)
from manyview.augment.crop import CenterCrop, Crop, PadCrop, Resize
from manyview.augment.erase import Cutout, Erase
from manyview.augment.flip import Flip, Rotate90, VFlip
from manyview.augment.grid_shuffle import GridShuffle
from manyview.augment.histogram import Autocontrast, Equalize, Posterize, Sharpness
from manyview.augment.lighting import Lighting
from manyview.augment.mix import CutMix, MixUp
from manyview.augment.perspective import Perspective
from manyview.augment.randaugment import RandAugment
from manyview.augment.trivialaugment import TrivialAugment
from manyview.augment.uniformaugment import UniformAugment

TABLE: dict[str, type] = {
    "affine": Affine,
    "augmix": AugMix,
    "autoaugment": AutoAugment,
    "autocontrast": Autocontrast,
    "blur": Blur,
    "brightness": Brightness,
    "center_crop": CenterCrop,
    "channel_permutation": ChannelPermutation,
    "color": Color,
    "contrast": Contrast,
    "crop": Crop,
    "cutmix": CutMix,
    "cutout": Cutout,
    "equalize": Equalize,
    "erase": Erase,
    "flip": Flip,
    "grayscale": Grayscale,
    "grid_shuffle": GridShuffle,
    "invert": Invert,
    "jitter": Jitter,
    "lighting": Lighting,
    "mixup": MixUp,
    "pad_crop": PadCrop,
    "perspective": Perspective,
    "posterize": Posterize,
    "randaugment": RandAugment,
    "resize": Resize,
    "rotate": Rotate,
    "rotate90": Rotate90,
    "sharpness": Sharpness,
    "shear": Shear,
    "solarize": Solarize,
    "solarize_add": SolarizeAdd,
    "translate": Translate,
    "trivialaugment": TrivialAugment,
    "uniformaugment": UniformAugment,
    "vflip": VFlip,
}
