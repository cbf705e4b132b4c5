"""Noise: gaussian, shot, impulse, and speckle, each value of each channel by itself."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import pdtr
from torch import Tensor

from manyview.augment.op import Params
from manyview.draws import Draws
from manyview.evaluate.corruptions.corruption import (
    Field,
    Levels,
    as_levels,
    as_unit,
    draw_keys,
    normal_field,
    paint_each,
    uniform_field,
)
from manyview.evaluate.corruptions.severities import constants


@dataclass(frozen=True)
class GaussianNoise:
    """Adds normal noise of deviation `sd`. Parameter: `key` int64 [B]."""

    severity: int
    size: int = 224

    def __post_init__(self) -> None:
        constants("gaussian_noise", self.severity, self.size)

    def sample(self, draws: Draws, sizes: Tensor) -> Params:
        return {"key": draw_keys(draws)}

    def render(self, images: Tensor, params: Params) -> Tensor:
        (sd,) = constants("gaussian_noise", self.severity, self.size)

        def paint(picture: Levels, key: int) -> Levels:
            return as_levels(as_unit(picture) + sd * normal_field(key, "noise", *picture.shape))

        return paint_each(images, paint, params["key"])


@dataclass(frozen=True)
class ShotNoise:
    """Counts of a Poisson distribution with mean `photons` times the value, over `photons`. Parameter: `key` [B]."""

    severity: int
    size: int = 224

    def __post_init__(self) -> None:
        constants("shot_noise", self.severity, self.size)

    def sample(self, draws: Draws, sizes: Tensor) -> Params:
        return {"key": draw_keys(draws)}

    def render(self, images: Tensor, params: Params) -> Tensor:
        (photons,) = constants("shot_noise", self.severity, self.size)

        def paint(picture: Levels, key: int) -> Levels:
            return as_levels(poisson(picture, photons, uniform_field(key, "noise", *picture.shape)) / photons)

        return paint_each(images, paint, params["key"])


@dataclass(frozen=True)
class ImpulseNoise:
    """Salt and pepper: a share `amount` of all values becomes 0 or 1, each as likely. Parameter: `key` int64 [B]."""

    severity: int
    size: int = 224

    def __post_init__(self) -> None:
        constants("impulse_noise", self.severity, self.size)

    def sample(self, draws: Draws, sizes: Tensor) -> Params:
        return {"key": draw_keys(draws)}

    def render(self, images: Tensor, params: Params) -> Tensor:
        (amount,) = constants("impulse_noise", self.severity, self.size)

        def paint(picture: Levels, key: int) -> Levels:
            where = uniform_field(key, "noise", *picture.shape)
            return np.where(where < amount / 2, 255, np.where(where < amount, 0, picture)).astype(np.uint8)

        return paint_each(images, paint, params["key"])


@dataclass(frozen=True)
class SpeckleNoise:
    """Adds normal noise of deviation `sd` times the value. Parameter: `key` int64 [B]."""

    severity: int
    size: int = 224

    def __post_init__(self) -> None:
        constants("speckle_noise", self.severity, self.size)

    def sample(self, draws: Draws, sizes: Tensor) -> Params:
        return {"key": draw_keys(draws)}

    def render(self, images: Tensor, params: Params) -> Tensor:
        (sd,) = constants("speckle_noise", self.severity, self.size)

        def paint(picture: Levels, key: int) -> Levels:
            values = as_unit(picture)
            return as_levels(values + values * sd * normal_field(key, "noise", *picture.shape))

        return paint_each(images, paint, params["key"])


def poisson(picture: Levels, photons: float, uniform: Field) -> Field:
    """Counts with mean `photons * level / 255`, by inversion: the smallest k with P(count <= k) > uniform.

    There are but 256 means, so one sorted table serves: row n holds n plus the distribution function of level n.
    """
    table, most = _distributions(photons)
    place = np.searchsorted(table, picture + uniform, side="right")
    return (place - most * picture.astype(np.int64)).astype(np.float64)


@lru_cache(maxsize=16)
def _distributions(photons: float) -> tuple[Field, int]:
    """Level plus P(count <= k), flat [256 * most], k < most; what lies beyond has a probability under 2^-33."""
    most = int(photons + 8 * np.sqrt(photons) + 20)
    levels = np.arange(256)[:, None]
    table = levels + pdtr(np.arange(most)[None], photons * levels / 255)
    return table.ravel(), most
