"""Digital: contrast, elastic transform, pixelate, JPEG, and saturate."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from manyview.evaluate.corruptions.blur import smooth
from manyview.evaluate.corruptions.paint import Field, Levels, as_levels, as_unit, draw_key, uniform_field
from manyview.evaluate.corruptions.severities import Row
from manyview.views.draws import Draws
from manyview.views.ops.op import Params


def contrast(picture: Levels, factor: float) -> Levels:
    """Leads each channel towards its mean over the image: `factor` of the distance is left. No parameters."""
    values = as_unit(picture)
    means = values.mean(axis=(0, 1), keepdims=True)
    return as_levels((values - means) * factor + means)


def elastic_transform(
    picture: Levels, corners: Field, key: int, amplitude: float, sigma: float, corner: float
) -> Levels:
    """Moves three corners by up to `corner` px each way, then every pixel by a smoothed random field.

    The field is uniform noise in (-1, 1), blurred with deviation `sigma`, times `amplitude` px. The constants for 224
    come from 244, a slip of the published code that made the set. That code warps with OpenCV, whose coordinates are
    rounded to 1/32 px; ours are not. Parameters: `corners` [B, 3, 2] (how far x and y move, in px), `key` int64 [B].
    """
    height, width = picture.shape[:2]
    noise = 2 * uniform_field(key, "shift", 2, height, width) - 1
    across, down = (amplitude * smooth(layer, sigma, mode="reflect", truncate=3) for layer in noise)
    y, x = np.mgrid[:height, :width]
    warped = sampled(as_unit(picture), *_before(corners, x, y), mode="mirror")
    return as_levels(sampled(warped, x + across, y + down, mode="reflect"))


def draw_elastic(draws: Draws, constants: Row) -> Params:
    """How far the corners move, and the field's key."""
    corner = constants[2]
    return {"corners": draws.uniform("corners", 6, -corner, corner).view(-1, 3, 2), **draw_key(draws, constants)}


def pixelate(picture: Levels, scale: float) -> Levels:
    """Shrinks both sides to `scale` by averaging boxes, and enlarges again by repeating pixels. No parameters."""
    height, width = picture.shape[:2]
    small = (max(1, int(width * scale)), max(1, int(height * scale)))
    boxes = Image.fromarray(picture).resize(small, Image.Resampling.BOX)
    return np.asarray(boxes.resize((width, height), Image.Resampling.BOX))


def jpeg_compression(picture: Levels, quality: float) -> Levels:
    """JPEG of `quality`, written and read by Pillow with its usual halved colour resolution. No parameters."""
    held = io.BytesIO()
    Image.fromarray(picture).save(held, "JPEG", quality=int(quality))
    return np.asarray(Image.open(held))


def saturate(picture: Levels, factor: float, amount: float) -> Levels:
    """HSV saturation times `factor` plus `amount`, clipped; hue and value stay. No parameters.

    Grey has hue 0, so that an amount above 0 turns it reddish, as in the published code.
    """
    value, fallen = hsv_parts(as_unit(picture))
    saturation = fallen.max(axis=2, keepdims=True)
    pure = np.where(saturation > 0, fallen / np.where(saturation > 0, saturation, 1), [0.0, 1.0, 1.0])
    return as_levels(value * (1 - np.clip(saturation * factor + amount, 0, 1) * pure))


def hsv_parts(values: Field) -> tuple[Field, Field]:
    """HSV without angles: value [H, W, 1], and how far each channel has fallen below it, in parts of it [H, W, 3].

    A channel is `value * (1 - fallen)`; the largest of a pixel's three is its saturation. Black has fallen nowhere.
    """
    value = values.max(axis=2, keepdims=True)
    return value, (value - values) / np.where(value > 0, value, 1)


def sampled(values: Field, x: Field, y: Field, mode: str) -> Field:
    """Bilinear samples of [H, W, 3] at x, y [H, W]; mode: SciPy's name for what lies beyond the border."""
    from scipy import ndimage

    layers = [ndimage.map_coordinates(values[..., n], [y, x], order=1, mode=mode) for n in range(values.shape[2])]
    return np.stack(layers, axis=2)


def _before(corners: Field, x: Field, y: Field) -> tuple[Field, Field]:
    """Where pixels x, y [H, W] come from under the affine map that moves three corners of the middle by `corners`.

    The corners lie a third of the shorter side from the centre: lower right, upper right, upper left.
    """
    height, width = x.shape
    centre, reach = np.array([width // 2, height // 2]), min(height, width) // 3
    still = centre + reach * np.array([[1, 1], [1, -1], [-1, -1]])
    matrix = np.linalg.solve(np.column_stack([still + corners, np.ones(3)]), still)  # [moved, 1] @ matrix = still
    from_x, from_y = (matrix[0, n] * x + matrix[1, n] * y + matrix[2, n] for n in (0, 1))
    return from_x, from_y
