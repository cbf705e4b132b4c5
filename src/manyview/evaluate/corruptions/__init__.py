"""Common corruptions (Hendrycks & Dietterich, ICLR 2019), made on the fly: 15, and 4 that are held back for tuning.

One family a file, each corruption `sample -> params -> render`; their constants stand in `severities.py`. ImageNet-C
was stored as JPEG of quality 85 after each corruption, CIFAR-10-C was not; nothing is compressed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from manyview.draws import Draws
from manyview.errors import unknown
from manyview.evaluate.corruptions.blur import DefocusBlur, GaussianBlur, GlassBlur, MotionBlur, ZoomBlur
from manyview.evaluate.corruptions.corruption import Corruption
from manyview.evaluate.corruptions.digital import Contrast, ElasticTransform, JpegCompression, Pixelate, Saturate
from manyview.evaluate.corruptions.noise import GaussianNoise, ImpulseNoise, ShotNoise, SpeckleNoise
from manyview.evaluate.corruptions.weather import Brightness, Fog, Frost, Snow, Spatter

MAIN: dict[str, type] = {
    "gaussian_noise": GaussianNoise,
    "shot_noise": ShotNoise,
    "impulse_noise": ImpulseNoise,
    "defocus_blur": DefocusBlur,
    "glass_blur": GlassBlur,
    "motion_blur": MotionBlur,
    "zoom_blur": ZoomBlur,
    "snow": Snow,
    "frost": Frost,
    "fog": Fog,
    "brightness": Brightness,
    "contrast": Contrast,
    "elastic_transform": ElasticTransform,
    "pixelate": Pixelate,
    "jpeg_compression": JpegCompression,
}
EXTRA: dict[str, type] = {
    "speckle_noise": SpeckleNoise,
    "gaussian_blur": GaussianBlur,
    "spatter": Spatter,
    "saturate": Saturate,
}
CORRUPTIONS: dict[str, type] = {**MAIN, **EXTRA}


def corruption(name: str, severity: int, size: int = 224, **settings: Any) -> Corruption:
    """A corruption by its name. settings: what one of them takes beyond, such as frost's `textures`.

    Raises ValueError for a name, a severity or a size that does not exist.
    """
    if name not in CORRUPTIONS:
        raise ValueError(unknown("corruption", name, CORRUPTIONS))
    return CORRUPTIONS[name](severity, size, **settings)


def corrupt(images: Tensor, how: Corruption, index: Sequence[int] | Tensor, seed: int = 0) -> Tensor:
    """Images [B, 3, H, W] corrupted, uint8 or float in [0, 1] as they came.

    index: what number each has in its data set [B]; with it, the seed, the corruption and its severity, all that is
    random is given, whatever the batch. Severities and both sets of constants draw independently of one another.
    """
    draws = Draws(seed, 0, index, "corruption", type(how).__name__, str(how.size), str(how.severity))
    sizes = torch.tensor(images.shape[-2:]).expand(len(images), 2)
    return how.render(images, how.sample(draws, sizes))


__all__ = ["CORRUPTIONS", "EXTRA", "MAIN", "Corruption", "corrupt", "corruption"]
