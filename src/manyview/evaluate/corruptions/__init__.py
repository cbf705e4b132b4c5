"""Common corruptions (Hendrycks & Dietterich, ICLR 2019), made on the fly: 15, and 4 that are held back for tuning.

Each is a function that draws parameters and one that paints a picture, one family a file; their constants stand in
`severities.py`. ImageNet-C was stored as JPEG of quality 85 after each corruption, CIFAR-10-C was not; nothing is
compressed here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, final

from torch import Tensor

from manyview.errors import unknown
from manyview.evaluate.corruptions.blur import (
    defocus_blur,
    draw_motion,
    gaussian_blur,
    glass_blur,
    motion_blur,
    zoom_blur,
)
from manyview.evaluate.corruptions.digital import (
    contrast,
    draw_elastic,
    elastic_transform,
    jpeg_compression,
    pixelate,
    saturate,
)
from manyview.evaluate.corruptions.frost import draw_frost, frost
from manyview.evaluate.corruptions.noise import gaussian_noise, impulse_noise, shot_noise, speckle_noise
from manyview.evaluate.corruptions.paint import Levels, draw_key, draw_nothing, paint_each
from manyview.evaluate.corruptions.severities import SEVERITIES, Row, constants
from manyview.evaluate.corruptions.weather import brightness, draw_snow, fog, snow, spatter
from manyview.views.draws import Draws
from manyview.views.ops.op import Params


class Kind(NamedTuple):
    """`paint(picture, **parameters, **constants)`, and what draws the parameters of a batch."""

    paint: Callable[..., Levels]
    draw: Callable[[Draws, Row], Params] = draw_nothing


MAIN: dict[str, Kind] = {
    "gaussian_noise": Kind(gaussian_noise, draw_key),
    "shot_noise": Kind(shot_noise, draw_key),
    "impulse_noise": Kind(impulse_noise, draw_key),
    "defocus_blur": Kind(defocus_blur),
    "glass_blur": Kind(glass_blur, draw_key),
    "motion_blur": Kind(motion_blur, draw_motion),
    "zoom_blur": Kind(zoom_blur),
    "snow": Kind(snow, draw_snow),
    "frost": Kind(frost, draw_frost),
    "fog": Kind(fog, draw_key),
    "brightness": Kind(brightness),
    "contrast": Kind(contrast),
    "elastic_transform": Kind(elastic_transform, draw_elastic),
    "pixelate": Kind(pixelate),
    "jpeg_compression": Kind(jpeg_compression),
}
EXTRA: dict[str, Kind] = {
    "speckle_noise": Kind(speckle_noise, draw_key),
    "gaussian_blur": Kind(gaussian_blur),
    "spatter": Kind(spatter, draw_key),
    "saturate": Kind(saturate),
}
CORRUPTIONS: dict[str, Kind] = {**MAIN, **EXTRA}


@final
@dataclass(frozen=True)
class Corruption:
    """What is done to an image, how strongly, and with which of the two published sets of constants.

    severity: 1 to 5. size: 224 for ImageNet-C's constants, 32 for those of CIFAR-10-C; images of any height and width
    can be given. textures: a folder of photographs, for `frost` alone. All that is random is drawn by `sample` and
    stands in the params: an angle, a corner, or the `key` from which a field of noise, too large to keep, is made
    again. Raises ValueError for what does not exist.
    """

    name: str
    severity: int
    size: int = 224
    textures: str | None = None

    def __post_init__(self) -> None:
        if self.name not in CORRUPTIONS:
            raise ValueError(unknown("corruption", self.name, CORRUPTIONS))
        constants(self.name, self.severity, self.size)
        if self.textures is not None and self.name != "frost":
            raise ValueError(f"textures are for frost; {self.name} has none")

    def sample(self, draws: Draws) -> Params:
        """Parameters for a batch; deterministic corruptions have none."""
        return CORRUPTIONS[self.name].draw(draws, constants(self.name, self.severity, self.size))

    def render(self, images: Tensor, params: Params) -> Tensor:
        """Corrupts a batch. images: RGB [B, 3, H, W], uint8, or float in [0, 1], which is rounded to 256 levels.

        Returns the same dtype, on the same device; floats are whole levels over 255. Every image is worked on alone
        and on the CPU, so that its result has the same bits in any batch.
        """
        given = dict(
            zip(SEVERITIES[self.name].names, constants(self.name, self.severity, self.size), strict=True),
            **({} if self.textures is None else {"textures": self.textures}),
        )
        return paint_each(images, partial(CORRUPTIONS[self.name].paint, **given), params)


def corruption(name: str, severity: int, size: int = 224, *, textures: str | None = None) -> Corruption:
    """A corruption by its name, see `Corruption`."""
    return Corruption(name, severity, size, textures)


def corrupt(images: Tensor, how: Corruption, index: Sequence[int] | Tensor, seed: int = 0) -> Tensor:
    """Images [B, 3, H, W] corrupted, uint8 or float in [0, 1] as they came.

    index: what number each has in its data set [B]; with it, the seed, the corruption and its severity, all that is
    random is given, whatever the batch. Severities and both sets of constants draw independently of one another.
    """
    owner = how.name.title().replace("_", "")  # GaussianNoise: as the stored figures were drawn
    return how.render(images, how.sample(Draws(seed, 0, index, "corruption", owner, str(how.size), str(how.severity))))


__all__ = ["CORRUPTIONS", "EXTRA", "MAIN", "Corruption", "corrupt", "corruption"]
