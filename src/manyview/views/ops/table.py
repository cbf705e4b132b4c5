"""The ops by name: a new op is one class and one line here. What is made of several ops stands in `OPS` alone."""

from __future__ import annotations

from manyview.views.ops.affine import Affine, Rotate, Shear, Translate
from manyview.views.ops.augmix import AugMix
from manyview.views.ops.autoaugment import AutoAugment
from manyview.views.ops.blur import Blur
from manyview.views.ops.color import Brightness, ChannelPermutation, Color, Contrast, Grayscale, Jitter
from manyview.views.ops.crop import CenterCrop, Crop, PadCrop, Resize
from manyview.views.ops.erase import Cutout, Erase
from manyview.views.ops.flip import Flip, Rotate90, VFlip
from manyview.views.ops.grid_shuffle import GridShuffle
from manyview.views.ops.histogram import Autocontrast, Equalize, Posterize, Sharpness
from manyview.views.ops.lighting import Lighting
from manyview.views.ops.mix import CutMix, MixUp
from manyview.views.ops.perspective import Perspective
from manyview.views.ops.randaugment import RandAugment
from manyview.views.ops.soften import Soften
from manyview.views.ops.threshold import Invert, Solarize, SolarizeAdd
from manyview.views.ops.trivialaugment import TrivialAugment
from manyview.views.ops.uniformaugment import UniformAugment

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
    "soften": Soften,
    "solarize": Solarize,
    "solarize_add": SolarizeAdd,
    "translate": Translate,
    "trivialaugment": TrivialAugment,
    "uniformaugment": UniformAugment,
    "vflip": VFlip,
}
