"""Frost, and its textures: the published photographs from a folder, or crystals that are computed here."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from manyview.errors import DataError
from manyview.evaluate.corruptions.paint import Field, Levels, as_levels, normal_field
from manyview.evaluate.corruptions.severities import Row
from manyview.views.draws import Draws
from manyview.views.ops.op import Params

TEXTURES = 5
PHOTOGRAPHS = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")
SIDE = 512


def frost(
    picture: Levels,
    texture: int,
    corner: Field,
    image: float,
    frost: float,
    every: float,
    textures: str | None = None,
) -> Levels:
    """`image` times the image plus `frost` times a part of one of five textures of frost.

    The published code takes photographs that cannot be shipped. Without them the textures are computed here, so that
    figures for frost are manyview's own and not to be set beside ImageNet-C's. textures: a folder that holds the
    photographs of the published code, `frost1.png` to `frost3.png`, `frost4.jpg` and `frost5.jpg` (it never takes
    its sixth); with it the definition is the published one. One pixel in `every` of a texture is taken, each way.
    Parameters: `texture` int64 [B], `corner` [B, 2] (top and left, as parts of the way they can go).

    Raises DataError for a folder without the textures, or images larger than a texture.
    """
    height, width = picture.shape[:2]
    layer = textures_of(textures, int(every), height, width)[texture]
    top, left = (corner * (layer.shape[0] - height, layer.shape[1] - width)).astype(int)
    mixed = image * picture + frost * layer[top : top + height, left : left + width]
    return np.clip(mixed, 0, 255).astype(np.uint8)


def draw_frost(draws: Draws, constants: Row) -> Params:
    """Which texture, and which part of it."""
    return {"texture": draws.integers("texture", TEXTURES)[:, 0], "corner": draws.uniform("corner", 2)}


def textures_of(folder: str | None, every: int, height: int, width: int) -> tuple[Levels, ...]:
    """Five textures [h, w, 3], none smaller than height x width; `every`: takes each so manieth pixel.

    Raises DataError for a folder that lacks one of them, and for images larger than a texture.
    """
    textures = tuple(texture[every // 2 :: every, every // 2 :: every] for texture in _whole(folder))
    for number, texture in enumerate(textures, start=1):
        if texture.shape[0] < height or texture.shape[1] < width:
            small = "; size=224 takes it whole" if every > 1 else ""
            raise DataError(
                f"images of {height} x {width} px are larger than texture {number} of frost, "
                f"{texture.shape[0]} x {texture.shape[1]} px{small}"
            )
    return textures


@lru_cache(maxsize=2)
def _whole(folder: str | None) -> tuple[Levels, ...]:
    if folder is None:
        return tuple(crystals(number) for number in range(TEXTURES))
    missing = [name for name in PHOTOGRAPHS if not (Path(folder) / name).is_file()]
    if missing:
        raise DataError(f"textures of frost: {folder} has no {missing[0]}; it needs {', '.join(PHOTOGRAPHS)}")
    return tuple(_read(Path(folder) / name) for name in PHOTOGRAPHS)


def _read(path: Path) -> Levels:
    try:
        with Image.open(path) as photograph:
            return np.asarray(photograph.convert("RGB"))
    except OSError as error:
        raise DataError(f"textures of frost: {path} cannot be read as an image: {error}") from None


def crystals(number: int, side: int = SIDE) -> Levels:
    """Texture `number` of frost, [side, side, 3]: bluish white needles in six directions, thick and thin by places.

    Our own invention. Noise is smoothed along a direction and little across it, for three directions 60 degrees apart
    and two scales; ridges of the strongest make needles, and noise of long waves says where they are dense.
    """
    fy, fx = np.meshgrid(np.fft.fftfreq(side), np.fft.rfftfreq(side), indexing="ij")
    turn = np.pi * number / (3 * TEXTURES)
    needles = np.zeros((side, side))
    for scale, weight in ((1.2, 0.8), (3.0, 1.0)):
        for direction in range(3):
            angle = turn + direction * np.pi / 3
            along = fx * np.cos(angle) + fy * np.sin(angle)
            across = fy * np.cos(angle) - fx * np.sin(angle)
            spread = np.exp(-2 * (np.pi * scale) ** 2 * ((14 * along) ** 2 + across**2))
            needles = np.maximum(needles, weight * _filtered(number, f"needles {scale} {direction}", spread))
    far = np.hypot(fx, fy)
    places = _filtered(number, "places", np.where(far > 0, np.maximum(far, 2 / side) ** -1.5, 0))
    dense = 1 / (1 + np.exp(-1.5 * places))
    light = 0.12 + 0.5 * dense + 0.3 * (needles - 1.2) * (0.3 + 0.7 * dense)
    return as_levels(light[:, :, None] * [0.90, 1.0, 1.08])


def _filtered(number: int, name: str, spread: Field) -> Field:
    """Normal noise through a filter given by its spectrum [side, side / 2 + 1]; mean 0, deviation 1."""
    side = len(spread)
    field = np.fft.irfft2(np.fft.rfft2(normal_field(number, f"frost {name}", side, side)) * spread, s=(side, side))
    return (field - field.mean()) / field.std()
