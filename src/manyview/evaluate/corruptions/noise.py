"""Noise: gaussian, shot, impulse, and speckle, each value of each channel by itself."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from manyview.evaluate.corruptions.paint import Field, Levels, as_levels, as_unit, normal_field, uniform_field


def gaussian_noise(picture: Levels, key: int, sd: float) -> Levels:
    """Adds normal noise of deviation `sd`. Parameter: `key` int64 [B]."""
    return as_levels(as_unit(picture) + sd * normal_field(key, "noise", *picture.shape))


def shot_noise(picture: Levels, key: int, photons: float) -> Levels:
    """Counts of a Poisson distribution with mean `photons` times the value, over `photons`. Parameter: `key` [B]."""
    return as_levels(poisson(picture, photons, uniform_field(key, "noise", *picture.shape)) / photons)


def impulse_noise(picture: Levels, key: int, amount: float) -> Levels:
    """Salt and pepper: a share `amount` of all values becomes 0 or 1, each as likely. Parameter: `key` int64 [B]."""
    where = uniform_field(key, "noise", *picture.shape)
    return np.where(where < amount / 2, 255, np.where(where < amount, 0, picture)).astype(np.uint8)


def speckle_noise(picture: Levels, key: int, sd: float) -> Levels:
    """Adds normal noise of deviation `sd` times the value. Parameter: `key` int64 [B]."""
    values = as_unit(picture)
    return as_levels(values + values * sd * normal_field(key, "noise", *picture.shape))


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
    from scipy.special import pdtr

    most = int(photons + 8 * np.sqrt(photons) + 20)
    levels = np.arange(256)[:, None]
    table = levels + pdtr(np.arange(most)[None], photons * levels / 255)
    return table.ravel(), most
