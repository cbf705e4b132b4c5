"""Common corruptions: slow references from their definitions, derived and stored figures, and the laws of ops."""

import colorsys
import importlib.util
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from scipy import ndimage, stats
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra

from cases import in_turn
from manyview.errors import DataError
from manyview.evaluate.corruptions import CORRUPTIONS, EXTRA, MAIN, corrupt, corruption
from manyview.evaluate.corruptions.blur import along_line, disk
from manyview.evaluate.corruptions.digital import sampled
from manyview.evaluate.corruptions.frost import PHOTOGRAPHS, crystals
from manyview.evaluate.corruptions.noise import poisson
from manyview.evaluate.corruptions.paint import normal_field, uniform_field
from manyview.evaluate.corruptions.severities import SEVERITIES, constants
from manyview.evaluate.corruptions.weather import cloud, distances, edges, equalized
from manyview.views.draws import Draws

SIDES = {224: 96, 32: 32}  # the pictures that stand for each set of constants
WITHOUT_DRAWS = [
    "brightness", "contrast", "defocus_blur", "gaussian_blur", "jpeg_compression", "pixelate", "saturate", "zoom_blur",
]  # fmt: skip
EVERY = [(name, severity, size) for name in CORRUPTIONS for severity in range(1, 6) for size in SIDES]
ONCE = [(name, severity, size) for name, severity, size in EVERY if severity in (2, 5)]


def pictures(count, height, width=None):
    """Slopes, a disk, a checkerboard and bars of several colours, in whole numbers; uint8 [count, 3, height, width]."""
    width = width or height
    y, x = np.mgrid[:height, :width]
    made = np.empty((count, 3, height, width), np.uint8)
    for n in range(count):
        for channel in range(3):
            slope = (x * (2 + n) * 255 // width + y * (1 + channel) * 255 // height + 70 * n) % 510
            plane = np.abs(slope - 255)
            inside = (x * 8 - width * (3 + n % 3)) ** 2 + (y * 8 - height * 4) ** 2 < (height * 2) ** 2
            plane[inside] = (40 + 90 * n + 100 * channel) % 256
            board = (y > height * 3 // 4) & (x < width // 2)
            plane[board] = np.where((y + x) // 3 % 2, 230 - 60 * channel, 20 + 10 * n)[board]
            bars = (y < height // 5) & (x > width // 2)
            plane[bars] = np.where(x % (2 + n) == 0, 255, 128)[bars]
            made[n, channel] = plane
    return torch.from_numpy(made)


def apart(a, b):
    """Greatest distance in levels."""
    return np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max()


def rendered(name, severity, size, picture, params=None):
    """One picture [3, H, W] corrupted, as an array [H, W, 3]."""
    params = {key: value[None] for key, value in (params or {}).items()}
    return corruption(name, severity, size).render(picture[None], params)[0].permute(1, 2, 0).numpy()


def drawn(name, severity, size, picture, row=11):
    """The parameters of one picture, without the dimension of the batch."""
    params = corruption(name, severity, size).sample(Draws(3, 0, [row], name))
    return {key: value[0] for key, value in params.items()}


def cut(values):
    """As levels: what is whole but for rounding stays, the rest is cut off."""
    return np.floor(np.clip(values, 0, 1) * 255 + 1e-6)


# The table


def test_both_published_sets_are_whole():
    assert len(MAIN) == 15
    assert len(EXTRA) == 4
    assert list(SEVERITIES) == list(CORRUPTIONS)
    for table in SEVERITIES.values():
        for rows in (table.imagenet, table.cifar):
            assert len(rows) == 5
            assert all(len(row) == len(table.names) for row in rows)


def test_the_table_of_the_documentation_is_what_the_code_says():
    docs = Path(__file__).parents[2] / "docs"
    spec = importlib.util.spec_from_file_location("make_corruptions", docs / "make_corruptions.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert (docs / "corruptions.md").read_text(encoding="utf-8") == script.corruptions()


# The laws that hold for all


@in_turn("name, severity, size", ONCE, by="name")
def test_a_batch_is_one_by_one_and_replays_and_leaves_its_input(name, severity, size):
    images = pictures(4, 24, 28)
    before = images.clone()
    how = corruption(name, severity, size)
    together = corrupt(images, how, [5, 6, 7, 8], seed=2)
    assert together.dtype == torch.uint8
    assert together.shape == images.shape
    assert torch.equal(together, corrupt(images, how, torch.tensor([5, 6, 7, 8]), seed=2))
    for row in (3, 0):
        assert torch.equal(together[row], corrupt(images[[row]], how, [5 + row], seed=2)[0])
    assert torch.equal(images, before)
    floats = images.float() / 255
    as_floats = corrupt(floats, how, [5, 6, 7, 8], seed=2)
    assert torch.equal(as_floats, together.float() / 255)
    assert torch.equal(floats, before.float() / 255)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_what_is_random_belongs_to_seed_index_and_severity(name):
    images = pictures(1, 32).expand(2, 3, 32, 32)
    how = corruption(name, 3, 32)
    first = corrupt(images, how, [1, 2])
    params = how.sample(Draws(0, 0, [1, 2], "x"))
    assert all(len(value) == 2 for value in params.values())
    if name in WITHOUT_DRAWS:
        assert not params
        assert torch.equal(first[0], first[1])
        return
    assert params
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, corrupt(images, how, [1, 2], seed=1))
    assert torch.equal(how.render(images, params), how.render(images, params))


GROWING = {
    224: ["gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "motion_blur", "zoom_blur", "brightness",
          "contrast", "pixelate", "jpeg_compression", "speckle_noise", "gaussian_blur"],
    32: ["gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "zoom_blur", "brightness", "contrast", "fog",
         "pixelate", "jpeg_compression", "speckle_noise", "gaussian_blur"],
}  # fmt: skip


@in_turn("size, name", [(size, name) for size, names in GROWING.items() for name in names], by="name")
def test_change_grows_with_severity_where_one_constant_says_how_much(size, name):
    """Not for those whose constants do not grow alike: of saturate, two severities fade and three deepen colours."""
    images = pictures(6, SIDES[size])
    changes = [
        (corrupt(images, corruption(name, severity, size), range(6)).float() - images.float()).abs().mean().item()
        for severity in range(1, 6)
    ]
    assert all(less < more for less, more in itertools.pairwise(changes)), changes


# Deterministic ones against slow references


@in_turn("size", SIDES)
@in_turn("severity", range(1, 6))
def test_contrast(severity, size):
    picture = pictures(2, 20, 26)[1]
    values = picture.permute(1, 2, 0).numpy() / 255
    (factor,) = constants("contrast", severity, size)
    expected = np.empty(values.shape)
    for channel in range(3):
        mean = math.fsum(values[..., channel].ravel()) / values[..., channel].size
        expected[..., channel] = cut((values[..., channel] - mean) * factor + mean)
    assert apart(rendered("contrast", severity, size, picture), expected) == 0


@in_turn("size", SIDES)
@in_turn("severity", range(1, 6))
@pytest.mark.parametrize("name", ["brightness", "saturate"])
def test_colours_by_way_of_hsv(name, severity, size):
    """Through the standard library's HSV, pixel by pixel."""
    drawn_levels = np.random.default_rng(1).integers(0, 256, (12, 15, 3))
    drawn_levels[0] = drawn_levels[0, :, :1]  # greys
    drawn_levels[1] = 0
    drawn_levels[2, :, 1:] = 0
    picture = torch.from_numpy(drawn_levels.astype(np.uint8)).permute(2, 0, 1)
    expected = np.empty(drawn_levels.shape)
    row = constants(name, severity, size)
    for y, x in np.ndindex(12, 15):
        hue, saturation, value = colorsys.rgb_to_hsv(*(drawn_levels[y, x] / 255))
        if name == "brightness":
            value = min(value + row[0], 1)
        else:
            saturation = min(max(saturation * row[0] + row[1], 0), 1)
        expected[y, x] = cut(colorsys.hsv_to_rgb(hue, saturation, value))
    assert apart(rendered(name, severity, size, picture), expected) == 0


@in_turn("size", SIDES)
@in_turn("severity", range(1, 6))
def test_pixelate(severity, size):
    """Means over boxes whose borders may cut pixels, then the box that each pixel's middle lies in."""
    height, width = 40, 48
    picture = pictures(2, height, width)[0]
    (scale,) = constants("pixelate", severity, size)

    def boxes(full):
        small = int(full * scale)
        at = np.arange(full)
        middle, half = ((np.arange(small) + 0.5) * full / small)[:, None], 0.5 * full / small
        shares = ((at + 0.5 > middle - half) & (at + 0.5 <= middle + half)).astype(float)
        return shares / shares.sum(axis=1, keepdims=True), ((at + 0.5) * small / full).astype(int)

    (rows, row_of), (columns, column_of) = boxes(height), boxes(width)
    means = np.einsum("ay,bx,cyx->abc", rows, columns, picture.numpy().astype(float))
    expected = means[row_of][:, column_of]
    assert apart(rendered("pixelate", severity, size, picture), expected) <= 1.01


@in_turn("size", SIDES)
@in_turn("severity", range(1, 6))
def test_jpeg(severity, size):
    """Against another codec with halved colours; decoders may differ by a rounding or two."""
    picture = pictures(3, 64, 72)[2]
    (quality,) = constants("jpeg_compression", severity, size)
    expected = torchvision.io.decode_jpeg(torchvision.io.encode_jpeg(picture, quality=int(quality)))
    assert apart(rendered("jpeg_compression", severity, size, picture), expected.permute(1, 2, 0)) <= 4


def slow_filter(values, weights, border):
    """Correlation by the sum's definition. values: [H, W, 3]; weights: [k, k]; border: the index of one beyond."""
    reach = len(weights) // 2
    height, width = values.shape[:2]
    filtered = np.zeros(values.shape)
    for y, x in np.ndindex(height, width):
        rows = [border(y + step, height) for step in range(-reach, reach + 1)]
        columns = [border(x + step, width) for step in range(-reach, reach + 1)]
        filtered[y, x] = np.einsum("ab,abc->c", weights, values[rows][:, columns])
    return filtered


def clamped(at, length):
    return min(max(at, 0), length - 1)


def mirrored(at, length):
    at %= 2 * (length - 1)
    return at if at < length else 2 * (length - 1) - at


@in_turn("size", SIDES)
@in_turn("severity", range(1, 6))
def test_gaussian_blur(severity, size):
    picture = pictures(2, 14, 17)[1]
    (sigma,) = constants("gaussian_blur", severity, size)
    reach = int(4 * sigma + 0.5)
    taps = [math.exp(-0.5 * (step / sigma) ** 2) for step in range(-reach, reach + 1)]
    weights = np.outer(taps, taps) / sum(taps) ** 2
    expected = cut(slow_filter(picture.permute(1, 2, 0).numpy() / 255, weights, clamped))
    assert apart(rendered("gaussian_blur", severity, size, picture), expected) == 0


@in_turn("size", SIDES)
@in_turn("severity", range(1, 6))
def test_defocus_blur(severity, size):
    picture = pictures(2, 18, 15)[1]
    radius, alias = constants("defocus_blur", severity, size)
    reach, taps = (8, 1) if radius <= 8 else (int(radius), 2)
    flat = np.zeros((2 * reach + 1, 2 * reach + 1, 3))
    for y, x in np.ndindex(flat.shape[:2]):
        flat[y, x] = math.hypot(y - reach, x - reach) <= radius
    line = [math.exp(-0.5 * (step / alias) ** 2) for step in range(-taps, taps + 1)]
    weights = slow_filter(flat / flat[..., 0].sum(), np.outer(line, line) / sum(line) ** 2, mirrored)[..., 0]
    np.testing.assert_allclose(disk(radius, alias), weights, atol=1e-12)
    expected = cut(slow_filter(picture.permute(1, 2, 0).numpy() / 255, weights, mirrored))
    assert apart(rendered("defocus_blur", severity, size, picture), expected) == 0


@in_turn("size", SIDES)
@in_turn("severity", range(1, 6))
@in_turn("side", [32, 45])
def test_zoom_blur(severity, size, side):
    """Against SciPy's zoom, which the published code calls, on square images as there."""
    picture = pictures(2, side)[0]
    values = picture.permute(1, 2, 0).numpy() / 255
    total, count = values.copy(), 1
    for factor in np.arange(1, *constants("zoom_blur", severity, size)):
        kept = math.ceil(side / factor)
        first = (side - kept) // 2
        grown = ndimage.zoom(values[first : first + kept, first : first + kept], (factor, factor, 1), order=1)
        surplus = (len(grown) - side) // 2
        total += grown[surplus : surplus + side, surplus : surplus + side]
        count += 1
    assert apart(rendered("zoom_blur", severity, size, picture), cut(total / count)) == 0


# Random ones, given their parameters


@in_turn("size", SIDES)
@in_turn("severity", range(1, 6))
def test_motion_blur(severity, size):
    picture = pictures(2, 21, 17)[0]
    params = drawn("motion_blur", severity, size, picture, row=severity)
    radius, sigma = constants("motion_blur", severity, size)
    angle = math.radians(params["angle"].item())
    values = picture.permute(1, 2, 0).numpy().astype(float)
    expected, total = np.zeros(values.shape), 0
    for tap in range(2 * int(radius) + 1):
        weight = math.exp(-(tap**2) / (2 * sigma**2))
        total += weight
        down, right = (math.ceil(tap * side - 0.5) for side in (math.sin(angle), math.cos(angle)))
        for y, x in np.ndindex(values.shape[:2]):
            expected[y, x] += weight * values[clamped(y + down, 21), clamped(x + right, 17)]
    assert apart(rendered("motion_blur", severity, size, picture, params), expected / total) <= 0.5 + 1e-6


@pytest.mark.parametrize("name", ["motion_blur", "snow"])
def test_angles_cover_their_range(name):
    low, high = (-45, 45) if name == "motion_blur" else (-135, -45)
    angle = corruption(name, 1).sample(Draws(0, 0, range(500), "x"))["angle"]
    assert low <= angle.min() < low + 2
    assert high - 2 < angle.max() < high


@in_turn("size", SIDES)
@in_turn("severity", range(1, 6))
def test_glass_blur(severity, size):
    picture = pictures(2, 22, 19)[1]
    params = drawn("glass_blur", severity, size, picture)
    sigma, reach, rounds = constants("glass_blur", severity, size)
    shifts = uniform_field(params["key"], "shift", int(rounds), 22, 19, 2) * 2 * reach - reach
    blur = {"sigma": (sigma, sigma, 0), "mode": "nearest", "truncate": 4}
    shaken = cut(ndimage.gaussian_filter(picture.permute(1, 2, 0).numpy() / 255, **blur))
    for turn in range(int(rounds)):
        for y in reversed(range(int(reach) + 1, 22 - int(reach) + 1)):
            for x in reversed(range(int(reach) + 1, 19 - int(reach) + 1)):
                down, right = np.floor(shifts[turn, y, x]).astype(int)
                shaken[y, x] = shaken[y + down, x + right]
    expected = cut(ndimage.gaussian_filter(shaken / 255, **blur))
    assert apart(rendered("glass_blur", severity, size, picture, params), expected) == 0


def test_fog_is_diamond_square():
    """Point by point, with borders that close; and the image's brightest value stays the bound."""
    side, decay, key = 16, 1.75, 77
    steps = iter(2 * uniform_field(key, "cloud", side * side) - 1)
    ground = np.zeros((side, side))
    gap, wide = side, 100.0
    while gap >= 2:
        half = gap // 2
        for down, right in ((half, half), (0, half), (half, 0)):
            around = [(y, x) for y in (-half, half) for x in (-half, half)]
            if (down, right) != (half, half):
                around = [(-half, 0), (half, 0), (0, -half), (0, half)]
            for y in range(down, side, gap):
                for x in range(right, side, gap):
                    mean = sum(ground[(y + dy) % side, (x + dx) % side] for dy, dx in around) / 4
                    ground[y, x] = mean + wide**2 * next(steps)
        gap, wide = half, wide / decay
    ground = (ground - ground.min()) / (ground.max() - ground.min())
    np.testing.assert_allclose(cloud(key, side, decay), ground, atol=1e-12)

    picture = pictures(1, 16)[0] // 2
    params = {"key": torch.tensor(key)}
    amount, own_decay = constants("fog", 5, 32)
    assert own_decay == decay
    values, bright = picture.permute(1, 2, 0).numpy() / 255, picture.max().item() / 255
    expected = cut((values + amount * ground[:, :, None]) * bright / (bright + amount))
    assert apart(rendered("fog", 5, 32, picture, params), expected) <= 1


def test_elastic_moves_corners_and_pixels():
    """A shift of all three corners alike is a translation; the field's part is the field's, pixel by pixel."""
    picture = pictures(2, 30)[1]
    params = drawn("elastic_transform", 1, 32, picture)
    still = {**params, "corners": torch.zeros(3, 2, dtype=torch.float64)}
    assert apart(rendered("elastic_transform", 1, 32, picture, still), picture.permute(1, 2, 0)) <= 1
    moved = {**params, "corners": torch.tensor([[2.0, -3.0]] * 3, dtype=torch.float64)}
    shifted = rendered("elastic_transform", 1, 32, picture, moved)
    assert apart(shifted[:-3, 2:], picture.permute(1, 2, 0)[3:, :-2]) <= 1

    stretched = {**params, "corners": torch.tensor([[5.0, 5], [5, -5], [-5, -5]], dtype=torch.float64)}
    doubled = rendered("elastic_transform", 1, 32, picture, stretched) / 255  # corners at 10 of 15 go to 15
    values = picture.permute(1, 2, 0).numpy() / 255
    y, x = np.mgrid[:30, :30]
    expected = sampled(values, 15 + (x - 15) / 1.5, 15 + (y - 15) / 1.5, "mirror")
    assert np.abs(doubled - expected).max() < 1.01 / 255

    amplitude, sigma, corner = constants("elastic_transform", 4, 32)
    params = drawn("elastic_transform", 4, 32, picture)
    assert params["corners"].abs().max() <= corner
    noise = 2 * uniform_field(params["key"], "shift", 2, 30, 30) - 1
    across, down = (amplitude * ndimage.gaussian_filter(one, sigma, mode="reflect", truncate=3) for one in noise)
    expected = np.zeros((30, 30, 3))
    for y, x in np.ndindex(30, 30):
        at_y, at_x = y + down[y, x], x + across[y, x]
        top, left = math.floor(at_y), math.floor(at_x)
        for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
            share = (1 - abs(at_y - row)) * (1 - abs(at_x - column))
            inside = [at if 0 <= at < 30 else (-1 - at if at < 0 else 59 - at) for at in (row, column)]
            expected[y, x] += share * values[inside[0], inside[1]]
    unmoved = {**params, "corners": torch.zeros(3, 2, dtype=torch.float64)}
    assert apart(rendered("elastic_transform", 4, 32, picture, unmoved), cut(expected)) == 0


@in_turn("size", SIDES)
@in_turn("severity", [1, 5])
def test_snow(severity, size):
    picture = pictures(2, 32)[0]
    params = drawn("snow", severity, size, picture)
    mean, sd, zoom, threshold, radius, sigma, share = constants("snow", severity, size)
    flakes = mean + sd * normal_field(params["key"], "flakes", 32, 32)
    kept = math.ceil(32 / zoom)
    first = (32 - kept) // 2
    flakes = ndimage.zoom(flakes[first : first + kept, first : first + kept], zoom, order=1)
    surplus = (len(flakes) - 32) // 2
    flakes = flakes[surplus : surplus + 32, surplus : surplus + 32]
    layer = cut(flakes * (flakes >= threshold))
    layer = np.round(along_line(layer, radius, sigma, params["angle"].item()))[:, :, None] / 255
    values = picture.permute(1, 2, 0).numpy() / 255
    grey = 0.299 * values[..., :1] + 0.587 * values[..., 1:2] + 0.114 * values[..., 2:]
    white = share * values + (1 - share) * np.maximum(values, 1.5 * grey + 0.5)
    expected = cut(white + layer + np.rot90(layer, 2))
    assert apart(rendered("snow", severity, size, picture, params), expected) == 0


def test_mud_covers_and_water_lightens():
    picture = pictures(1, 48)[0]
    clean = picture.permute(1, 2, 0).numpy()
    params = drawn("spatter", 5, 224, picture)
    mean, sd, sigma, threshold, strength, _ = constants("spatter", 5, 224)
    blur = {"mode": "nearest", "truncate": 4}
    liquid = ndimage.gaussian_filter(mean + sd * normal_field(params["key"], "liquid", 48, 48), sigma, **blur)
    cover = ndimage.gaussian_filter((liquid > threshold) * 1.0, strength, **blur)[:, :, None]
    cover = cover * (cover >= 0.8)
    expected = cut(clean / 255 * (1 - cover) + cover * np.array([63, 42, 20]) / 255)
    assert 0.01 < (cover > 0).mean() < 0.9
    assert apart(rendered("spatter", 5, 224, picture, params), expected) <= 1

    params = drawn("spatter", 3, 224, picture)
    mean, sd, sigma, threshold, _, _ = constants("spatter", 3, 224)
    liquid = ndimage.gaussian_filter(mean + sd * normal_field(params["key"], "liquid", 48, 48), sigma, **blur)
    dark = torch.zeros_like(picture)
    water = rendered("spatter", 3, 224, dark, params).astype(int)
    assert not water[liquid < threshold].any()
    assert water.max(axis=(0, 1)).tolist() == [int(255 * 0.5 * 175 / 255), 119, 119]
    assert (rendered("spatter", 3, 224, picture, params) >= clean.astype(int) - 1).all()


def test_spatter_without_a_drop_changes_nothing():
    picture = pictures(1, 2)[0]
    for key in range(40):
        params = {"key": torch.tensor(key)}
        if apart(rendered("spatter", 1, 224, picture, params), picture.permute(1, 2, 0)) <= 1:
            return
    pytest.fail("every one of 40 patches of four pixels had a drop")


def test_distances_are_shortest_ways():
    marks = np.random.default_rng(0).uniform(size=(13, 17)) < 0.03
    assert marks.any()
    steps = {(dy, dx): 1.0 if dy * dx == 0 else 1.4 for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx}
    steps |= {(dy, dx): 2.1969 for dy in range(-2, 3) for dx in range(-2, 3) if abs(dy * dx) == 2}
    starts, ends, lengths = [], [], []
    for y, x in np.ndindex(13, 17):
        for (dy, dx), length in steps.items():
            if 0 <= y + dy < 13 and 0 <= x + dx < 17:
                starts.append(y * 17 + x)
                ends.append((y + dy) * 17 + x + dx)
                lengths.append(length)
    graph = coo_array((lengths, (starts, ends)), shape=(221, 221)).tocsr()
    shortest = dijkstra(graph, indices=np.flatnonzero(marks)).min(axis=0)
    np.testing.assert_allclose(distances(marks), shortest.reshape(13, 17), atol=1e-9)
    assert np.isinf(distances(np.zeros((3, 3), bool))).all()


def test_edges_are_canny_s():
    """Pixel by pixel from the description: Sobel, ridges in four directions, and what hangs together."""
    levels = ndimage.gaussian_filter(np.random.default_rng(4).uniform(0, 255, (26, 31)) * 1.5, 0.9)
    levels = levels.clip(0, 255).astype(np.uint8)
    padded = np.pad(levels.astype(int), 1, mode="edge")
    length, direction = np.zeros((28, 33), int), {}
    for y, x in np.ndindex(26, 31):
        patch = padded[y : y + 3, x : x + 3]
        dx = (patch[:, 2] - patch[:, 0]) @ [1, 2, 1]
        dy = (patch[2] - patch[0]) @ [1, 2, 1]
        length[y + 1, x + 1] = abs(dx) + abs(dy)
        direction[y, x] = dx, dy
    weak, frontier = set(), []
    for (y, x), (dx, dy) in direction.items():
        here, turn = length[y + 1, x + 1], math.degrees(math.atan2(abs(dy), abs(dx)))
        if turn < 22.5:
            before, after = length[y + 1, x], length[y + 1, x + 2] - 1
        elif turn > 67.5:
            before, after = length[y, x + 1], length[y + 2, x + 1] - 1
        elif dx * dy < 0:
            before, after = length[y, x + 2], length[y + 2, x]
        else:
            before, after = length[y, x], length[y + 2, x + 2]
        if here > 50 and here > before and here > after:
            weak.add((y, x))
            if here > 150:
                frontier.append((y, x))
    expected = np.zeros((26, 31), bool)
    while frontier:
        y, x = frontier.pop()
        if not expected[y, x]:
            expected[y, x] = True
            frontier += [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (y + dy, x + dx) in weak]
    assert 20 < expected.sum() < len(weak)
    assert np.array_equal(edges(levels, 50, 150), expected)


def test_equalized_levels_follow_their_distribution():
    levels = np.array([[3, 3, 9, 9], [9, 200, 200, 250]], np.uint8)
    assert equalized(levels).tolist() == [[0, 0, 128, 128], [128, 212, 212, 255]]  # 3, 5 and 6 sixths of 255
    flat = np.full((3, 3), 7, np.uint8)
    assert np.array_equal(equalized(flat), flat)


def test_counts_are_the_inverse_of_poisson_s_distribution():
    levels = np.random.default_rng(0).integers(0, 256, 4000).astype(np.uint8)
    levels[:9] = 0
    chance = uniform_field(5, "x", 4000)
    for photons in (3, 60, 500):
        expected = stats.poisson.ppf(chance, photons * (levels / 255))
        assert np.array_equal(poisson(levels, photons, chance)[9:], expected[9:])
        assert not poisson(levels, photons, chance)[:9].any()


# Random ones against what their definition says on average


def level_chances(name, constant, level):
    """How likely each of 256 levels is, from the definition: clipped, then cut to whole levels."""
    value = level / 255
    if name == "impulse_noise":
        chances = np.zeros(256)
        chances[[0, 255]] = constant / 2
        chances[level] += 1 - constant
        return chances
    if name == "shot_noise":
        counts = np.arange(int(constant) + 1)
        heights = np.floor(np.minimum(counts / constant, 1) * 255 + 1e-9).astype(int)
        mass = stats.poisson.pmf(counts, constant * value)
        mass[-1] += 1 - mass.sum()
        return np.bincount(heights, mass, 256)
    sd = constant if name == "gaussian_noise" else constant * value
    below = stats.norm.cdf((np.arange(1, 256) / 255 - value) / sd)
    return np.diff(np.concatenate([[0], below, [1]]))


@in_turn("size", SIDES)
@in_turn("severity", range(1, 6))
@pytest.mark.parametrize("name", ["gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise"])
def test_noise_has_the_mean_and_deviation_of_its_definition(name, severity, size):
    (constant,) = constants(name, severity, size)
    for level in (30, 127, 240):
        images = torch.full((1, 3, 160, 160), level, dtype=torch.uint8)
        noise = corrupt(images, corruption(name, severity, size), [severity]).double() - level
        chances, levels = level_chances(name, constant, level), np.arange(256) - level
        mean = chances @ levels
        moments = [chances @ (levels - mean) ** power for power in (2, 4)]
        count = noise.numel()
        assert noise.mean().item() == pytest.approx(mean, abs=5 * math.sqrt(moments[0] / count))
        spread = math.sqrt((moments[1] - moments[0] ** 2) / count)
        assert noise.var().item() == pytest.approx(moments[0], abs=5 * spread)
    if name == "gaussian_noise" and constant < 0.1:  # too little to be clipped
        images = torch.full((1, 3, 160, 160), 127, dtype=torch.uint8)
        noise = corrupt(images, corruption(name, severity, size), [0]).double() - 127
        assert noise.std().item() == pytest.approx(255 * constant, rel=0.02)
        assert noise.mean().item() == pytest.approx(-0.5, abs=0.4)  # what cutting takes


# Frost


def test_frost_takes_photographs_from_a_folder(tmp_path):
    photographs = []
    for number, name in enumerate(PHOTOGRAPHS):
        photograph = crystals(number, 300)[: 280 + number, : 290 - number]
        Image.fromarray(photograph).save(tmp_path / name, quality=100)
        photographs.append(np.asarray(Image.open(tmp_path / name)))
    seen = set()
    for size, side in ((224, 40), (32, 32)):
        images = pictures(12, side, side + 4)
        how = corruption("frost", 2, size, textures=str(tmp_path))
        params = how.sample(Draws(0, 0, range(12), "x"))
        of_image, of_frost, _ = constants("frost", 2, size)
        for picture, result, number, corner in zip(
            images, how.render(images, params), params["texture"].tolist(), params["corner"].numpy(), strict=True
        ):
            seen.add(number)
            photograph = photographs[number]
            if size == 32:  # bilinear reduction to a fifth meets a pixel's middle: the third of each five
                photograph = photograph[2::5, 2::5]
            top = int(corner[0] * (photograph.shape[0] - side))
            left = int(corner[1] * (photograph.shape[1] - side - 4))
            part = photograph[top : top + side, left : left + side + 4]
            expected = np.clip(of_image * picture.permute(1, 2, 0).numpy() + of_frost * part, 0, 255)
            assert np.array_equal(result.permute(1, 2, 0).numpy(), expected.astype(np.uint8))
    assert seen == set(range(5))


def test_frost_needs_all_its_photographs(tmp_path):
    images = pictures(1, 32)
    with pytest.raises(DataError, match=r"has no frost1.png; it needs frost1.png, .*frost5.jpg"):
        corrupt(images, corruption("frost", 1, textures=str(tmp_path)), [0])
    for name in PHOTOGRAPHS:
        (tmp_path / name).write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"frost1.png cannot be read as an image"):
        corrupt(images, corruption("frost", 1, textures=str(tmp_path)), [0])


def test_images_larger_than_frost_are_refused():
    with pytest.raises(DataError, match=r"120 x 120 px are larger than texture 1 of frost, 102 x 102 px; size=224"):
        corrupt(pictures(1, 120), corruption("frost", 1, 32), [0])


# Mistakes


@in_turn("name", CORRUPTIONS)
@pytest.mark.parametrize(
    ("severity", "size", "message"),
    [
        (0, 224, "severity must be a whole number from 1 to 5, got 0"),
        (6, 32, "severity must be .* got 6"),
        (True, 32, "severity must be .* got True"),
        (1, 64, "size must be 224, the constants of ImageNet-C, or 32, those of CIFAR-10-C, got 64"),
    ],
)
def test_severities_and_sizes_that_do_not_exist(name, severity, size, message):
    with pytest.raises(ValueError, match=message):
        corruption(name, severity, size)


def test_other_mistakes_are_named():
    with pytest.raises(ValueError, match="unknown corruption 'fogg'; did you mean 'fog'"):
        corruption("fogg", 1)
    with pytest.raises(ValueError, match="textures are for frost; fog has none"):
        corruption("fog", 1, textures="photographs")
    how = corruption("contrast", 1)
    with pytest.raises(ValueError, match="needs RGB images with 3 channels, got 1"):
        corrupt(pictures(2, 8)[:, :1], how, [0, 1])
    with pytest.raises(ValueError, match=r"expected images \[B, 3, H, W\]"):
        how.render(pictures(1, 8)[0], {})
    noise = corruption("gaussian_noise", 1)
    with pytest.raises(ValueError, match=r"2 images have parameters for \[3\]"):
        corrupt(pictures(2, 8), noise, [0, 1, 2])


# Stored figures


def figures(name, size):
    """Mean and deviation, in levels, of what a corruption adds to four pictures; a pair a severity."""
    images = pictures(4, SIDES[size])
    pairs = []
    for severity in range(1, 6):
        added = corrupt(images, corruption(name, severity, size), range(4)).double() - images
        pairs.append((round(added.mean().item(), 2), round(added.std().item(), 2)))
    return pairs


STORED = {  # as drawn with seed 0; a change of any of them is a change of the corruption
    ("gaussian_noise", 224): [(-0.96, 19.4), (-1.19, 28.34), (-1.2, 41.21), (-1.47, 56.26), (-1.75, 74.87)],
    ("gaussian_noise", 32): [(-0.55, 9.94), (-0.77, 14.78), (-0.92, 19.57), (-0.68, 21.53), (-0.66, 24.13)],
    ("shot_noise", 224): [(-1.82, 21.62), (-3.3, 32.36), (-5.77, 45.28), (-10.65, 65.42), (-16.16, 79.72)],
    ("shot_noise", 32): [(-0.83, 7.83), (-0.92, 10.92), (-1.43, 16.96), (-1.93, 19.7), (-2.12, 23.71)],
    ("impulse_noise", 224): [(-0.07, 25.58), (-0.34, 36.38), (-0.44, 44.14), (-0.79, 61.54), (-0.85, 76.51)],
    ("impulse_noise", 32): [(-0.18, 15.26), (-0.36, 20.93), (0.01, 26.05), (-0.02, 33.28), (-0.62, 38.59)],
    ("defocus_blur", 224): [(-0.38, 33.93), (-0.42, 34.55), (-0.43, 34.7), (1.2, 37.59), (0.93, 39.93)],
    ("defocus_blur", 32): [(-0.29, 4.51), (-0.27, 11.15), (-0.24, 16.44), (-0.27, 22.89), (-0.11, 28.66)],
    ("glass_blur", 224): [(-0.89, 36.49), (-0.74, 33.87), (-0.93, 41.45), (-0.7, 39.21), (-0.91, 40.45)],
    ("glass_blur", 32): [(0.15, 41.78), (-0.82, 41.84), (-1.11, 37.01), (-1.73, 57.13), (-0.98, 52.9)],
    ("motion_blur", 224): [(0.53, 33.83), (0.59, 39.53), (0.91, 51.12), (1.49, 55.85), (2.05, 59.75)],
    ("motion_blur", 32): [(0.32, 21.28), (0.54, 29.36), (0.81, 34.16), (0.83, 35.88), (0.78, 40.32)],
    ("zoom_blur", 224): [(0.32, 36.77), (0.59, 39.56), (0.87, 41.07), (1.13, 43.79), (1.46, 45.12)],
    ("zoom_blur", 32): [(-0.04, 29.34), (0.26, 33.1), (0.51, 37.49), (0.85, 41.78), (1.21, 45.64)],
    ("snow", 224): [(40.88, 24.03), (65.28, 37.19), (62.66, 36.85), (74.36, 44.37), (87.72, 49.27)],
    ("snow", 32): [(9.86, 7.3), (24.17, 15.92), (24.18, 17.47), (33.92, 19.71), (47.36, 23.94)],
    ("frost", 224): [(37.03, 19.38), (24.17, 32.06), (21.65, 39.77), (17.54, 39.55), (30.66, 43.21)],
    ("frost", 32): [(17.17, 9.69), (23.85, 13.23), (17.1, 18.22), (14.19, 21.53), (6.66, 27.1)],
    ("fog", 224): [(0.45, 53.48), (-1.67, 58.86), (-13.77, 60.43), (1.46, 68.04), (-11.98, 67.14)],
    ("fog", 32): [(-2.36, 14.06), (-5.48, 28.36), (-8.23, 38.57), (-5.32, 42.44), (-6.18, 58.9)],
    ("brightness", 224): [(14.64, 9.38), (24.49, 18.83), (31.85, 27.94), (37.98, 36.84), (42.96, 44.96)],
    ("brightness", 32): [(7.55, 4.45), (14.65, 9.33), (20.06, 14.03), (24.56, 18.77), (31.94, 27.84)],
    ("contrast", 224): [(-0.5, 43.8), (-0.52, 51.13), (-0.47, 58.43), (-0.54, 65.71), (-0.47, 69.4)],
    ("contrast", 32): [(-0.48, 18.23), (-0.49, 36.45), (-0.47, 43.73), (-0.48, 51.03), (-0.48, 61.95)],
    ("elastic_transform", 224): [(1.66, 84.77), (-0.33, 94.46), (0.75, 52.31), (0.62, 45.78), (0.25, 51.06)],
    ("elastic_transform", 32): [(0.25, 58.92), (0.56, 51.24), (0.33, 52.48), (0.27, 50.69), (0.24, 36.21)],
    ("pixelate", 224): [(0.28, 23.56), (0.35, 25.78), (0.12, 29.43), (0.05, 33.02), (0.21, 33.98)],
    ("pixelate", 32): [(0.01, 12.33), (0.02, 15.52), (0.02, 16.1), (0.05, 21.88), (0.12, 26.32)],
    ("jpeg_compression", 224): [(-0.02, 16.52), (0.27, 18.15), (-0.12, 19.16), (-0.25, 21.63), (0.77, 24.12)],
    ("jpeg_compression", 32): [(-0.06, 18.37), (-0.03, 21.68), (-0.02, 22.87), (-0.02, 23.98), (0.15, 24.74)],
    ("speckle_noise", 224): [(-2.19, 20.05), (-3.12, 26.04), (-6.59, 43.6), (-9.04, 54.22), (-12.51, 66.71)],
    ("speckle_noise", 32): [(-0.83, 8.45), (-1.18, 13.82), (-1.53, 16.31), (-2.18, 21.2), (-2.98, 26.38)],
    ("gaussian_blur", 224): [(-0.43, 24.77), (-0.47, 32.51), (-0.49, 34.42), (-0.51, 36.3), (-0.54, 40.73)],
    ("gaussian_blur", 32): [(-0.4, 4.33), (-0.42, 16.02), (-0.47, 19.76), (-0.49, 22.6), (-0.52, 26.83)],
    ("spatter", 224): [(1.71, 9.73), (5.36, 16.89), (6.46, 16.88), (-9.0, 33.67), (-16.05, 44.33)],
    ("spatter", 32): [(1.03, 7.72), (2.54, 12.15), (6.77, 17.04), (-2.72, 19.15), (-4.98, 25.25)],
    ("saturate", 224): [(40.35, 47.28), (51.91, 60.82), (-22.81, 29.88), (-27.76, 35.74), (-29.73, 37.13)],
    ("saturate", 32): [(40.48, 47.12), (52.08, 60.61), (-18.26, 22.75), (-25.23, 30.67), (-28.13, 33.71)],
}  # fmt: skip


@in_turn("name, size", [(name, size) for name in CORRUPTIONS for size in SIDES], by="name")
def test_stored_figures_are_reproduced(name, size):
    """JPEG's depend on the codec's version, by less than the tolerance; the others on rounding alone."""
    tolerance = 0.3 if name == "jpeg_compression" else 0.03
    np.testing.assert_allclose(figures(name, size), STORED[name, size], atol=tolerance)
