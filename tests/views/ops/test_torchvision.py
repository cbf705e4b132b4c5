"""Given the same parameters, every op makes what torchvision makes, in grey levels; and crops are drawn as there."""

import colorsys
import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from scipy import stats
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms.v2 import RandomErasing
from torchvision.transforms.v2 import functional as F

from cases import in_turn
from manyview.views.draws import Draws
from manyview.views.ops import OPS, color, histogram
from manyview.views.ops.color import Jitter, saturation_hsv
from manyview.views.ops.crop import fractions
from manyview.views.ops.erase import noise
from manyview.views.ops.op import as_float, as_uint8

SIZES = [(32, 32), (33, 47), (64, 40)]
KINDS = ["noise", "smooth", "flat"]
SIZE = in_turn("size", SIZES)
KIND = in_turn("kind", KINDS)


def photos(kind, size, count=4):
    """uint8 [count, 3, h, w]: every pixel its own, a smooth gradient of few levels, or one colour each."""
    generator = torch.Generator().manual_seed(1)
    if kind == "noise":
        return torch.randint(0, 256, (count, 3, *size), generator=generator, dtype=torch.uint8)
    coarse = torch.rand(count, 3, *((4, 4) if kind == "smooth" else (1, 1)), generator=generator) * 200 + 20
    return F.resize(coarse, list(size), antialias=True).round().to(torch.uint8)


def draw(op, size, count=4, view="a"):
    return op.sample(Draws(0, 0, range(count), view, "op"), torch.tensor([size]).expand(count, 2))


def assert_levels(ours, theirs, share=0.999):
    """At least `share` of the pixels within one grey level, and none further than two."""
    assert ours.shape == theirs.shape
    apart = (as_uint8(ours).int() - as_uint8(theirs).int()).abs()
    assert (apart <= 1).double().mean() >= share, f"{(apart > 1).sum()} of {apart.numel()} pixels differ by more"
    assert apart.max() <= 2


def each(function, images, *values):
    """A torchvision function image by image, with the parameters of each."""
    return torch.stack([function(image, *value) for image, *value in zip(images, *values, strict=True)])


def box_pixels(params, size):
    scale = torch.tensor([*size, *size])
    return (params["box"] * scale).round().long().tolist()


# crops


@SIZE
@KIND
@in_turn("target", [(16, 16), (24, 50), (80, 80)])  # smaller, mixed, larger
def test_crop_is_resized_crop(size, kind, target):
    op, images = OPS["crop"](target), photos(kind, size, 12)
    params = draw(op, size, 12)
    ours, boxes = op.render(images, params), box_pixels(params, size)
    assert_levels(ours, each(lambda x, box: F.resized_crop(x, *box, list(target), antialias=True), images, boxes))
    floats = each(lambda x, box: F.resized_crop(x, *box, list(target), antialias=True), as_float(images), boxes)
    torch.testing.assert_close(ours, floats, rtol=0, atol=1e-5)


@in_turn("box", [(0, 0, 1, 1), (31, 46, 2, 1), (0, 0, 33, 47), (5, 7, 3, 40)])
def test_crop_of_extreme_boxes_is_resized_crop(box):
    images = photos("noise", (33, 47), 2)
    params = {"box": fractions(torch.tensor([box, box]).double(), torch.tensor([[33, 47]] * 2))}
    theirs = F.resized_crop(as_float(images), *box, [20, 24], antialias=True)
    torch.testing.assert_close(OPS["crop"]((20, 24)).render(images, params), theirs, rtol=0, atol=1e-5)


@SIZE
@KIND
@in_turn("target", [16, 37, 100, (20, 70)])
def test_resize_is_resize(size, kind, target):
    op, images = OPS["resize"](target), photos(kind, size)
    theirs = F.resize(images, target if isinstance(target, int) else list(target), antialias=True)
    assert_levels(op.render(images, draw(op, size)), theirs)
    assert op.output_size(torch.tensor([size])).tolist() == [list(theirs.shape[-2:])]


@in_turn("size", [(500, 375), (375, 500), (333, 1000), (97, 31)])
@in_turn("target", [32, 224, 256])
def test_resize_rounds_the_longer_side_as_torchvision(size, target):
    theirs = F.resize(torch.zeros(1, *size, dtype=torch.uint8), target).shape[-2:]
    assert OPS["resize"](target).output_size(torch.tensor([size])).tolist() == [list(theirs)]


@SIZE
@KIND
@in_turn("mode, theirs", [("zeros", "constant"), ("reflect", "reflect")])
@in_turn("target", [None, (30, 21)])
def test_pad_crop_is_pad_and_crop(size, kind, mode, theirs, target):
    op, images = OPS["pad_crop"](target, padding=4, mode=mode), photos(kind, size, 20)
    params = draw(op, size, 20)
    boxes = [(top + 4, left + 4, height, width) for top, left, height, width in box_pixels(params, size)]
    padded = F.pad(images, [4], padding_mode=theirs)
    assert torch.equal(op.render(images, params), each(lambda x, box: F.crop(x, *box), padded, boxes))


@SIZE
@in_turn("target", [31, 32, (17, 30), (1, 1)])
def test_center_crop_is_center_crop(size, target):
    op, images = OPS["center_crop"](target), photos("noise", size)
    assert torch.equal(op.render(images, draw(op, size)), F.center_crop(images, target))


def crop_slow(draws, height, width, scale, ratio):
    """One image of torchvision's RandomResizedCrop.get_params, with our numbers in place of its generator."""
    areas, shapes = draws.uniform("scale", 10, *scale)[0], draws.uniform("ratio", 10, *map(math.log, ratio))[0]
    for area, shape in zip(areas.tolist(), shapes.tolist(), strict=True):
        w = round(math.sqrt(height * width * area * math.exp(shape)))
        h = round(math.sqrt(height * width * area / math.exp(shape)))
        if 0 < w <= width and 0 < h <= height:
            top, left = draws.uniform("top").item(), draws.uniform("left").item()
            return [math.floor(top * (height - h + 1)), math.floor(left * (width - w + 1)), h, w]
    w, h = width, height
    if width / height < min(ratio):
        h = round(width / min(ratio))
    elif width / height > max(ratio):
        w = round(height * max(ratio))
    return [(height - h) // 2, (width - w) // 2, h, w]


@in_turn("size", [(32, 32), (33, 47), (20, 90), (90, 20), (375, 500)])
@in_turn("scale", [(0.08, 1.0), (0.9, 1.0), (0.001, 0.01)])
@in_turn("ratio", [(3 / 4, 4 / 3), (1.0, 2.0)])
def test_crop_boxes_follow_the_published_algorithm(size, scale, ratio):
    """Tries, the first that fits, the fallback to the centre: against a loop over one image at a time."""
    boxes = box_pixels(draw(OPS["crop"](8, scale, ratio), size, 150), size)
    slow = [crop_slow(Draws(0, 0, [i], "a", "op"), *size, scale, ratio) for i in range(150)]
    assert boxes == slow


@in_turn("size", [(32, 32), (40, 64)])
def test_crop_boxes_are_distributed_as_torchvision_draws_them(size):
    count = 8000
    torch.manual_seed(0)
    image = torch.empty(3, *size)
    theirs = np.array([RandomResizedCrop.get_params(image, [0.08, 1], [3 / 4, 4 / 3]) for _ in range(count)])
    ours = np.array(box_pixels(draw(OPS["crop"](8), size, count), size))
    for column in (*range(4), "area"):
        one, other = (b[:, 2] * b[:, 3] if column == "area" else b[:, column] for b in (ours, theirs))
        assert stats.ks_2samp(one, other, method="asymp").pvalue > 1e-3, column


# flips, turns, channels


@SIZE
@pytest.mark.parametrize(("name", "theirs"), [("flip", F.horizontal_flip), ("vflip", F.vertical_flip)])
def test_flips_are_flips(size, name, theirs):
    op, images = OPS[name](p=0.5), photos("noise", size, 8)
    params = draw(op, size, 8)
    expected = each(lambda x, on: theirs(x) if on else x, images, params["applied"])
    assert 0 < params["applied"].sum() < 8
    assert torch.equal(op.render(images, params), expected)


def test_rotate90_is_rotate():
    images = photos("noise", (32, 32), 16)
    params = draw(OPS["rotate90"](), (32, 32), 16)
    assert set(params["k"].tolist()) == {0, 1, 2, 3}
    expected = each(lambda x, k: F.rotate(x, 90.0 * int(k)), images, params["k"])
    assert torch.equal(OPS["rotate90"]().render(images, params), expected)


@SIZE
def test_channel_permutation_is_permute_channels(size):
    images, params = photos("noise", size, 16), draw(OPS["channel_permutation"](), size, 16)
    expected = each(lambda x, order: F.permute_channels(x, order.tolist()), images, params["order"])
    assert torch.equal(OPS["channel_permutation"]().render(images, params), expected)


# colour

FACTORS = {
    "brightness": (F.adjust_brightness, [0.0, 0.37, 1.0, 1.8]),
    "contrast": (F.adjust_contrast, [0.0, 0.37, 1.0, 1.8]),
    "saturation": (F.adjust_saturation, [0.0, 0.37, 1.0, 1.8]),
    "hue": (F.adjust_hue, [-0.5, -0.13, 0.0, 0.07, 0.5]),
}


@SIZE
@KIND
@pytest.mark.parametrize("name", FACTORS)
def test_one_factor_is_torchvisions(size, kind, name):
    theirs, values = FACTORS[name]
    images, factors = photos(kind, size, len(values)), torch.tensor(values, dtype=torch.float64)
    ours = getattr(color, name)(as_float(images), factors)
    torch.testing.assert_close(ours, each(theirs, as_float(images), values), rtol=0, atol=2e-5)
    apart = as_uint8(ours).int() - each(theirs, images, values).int()
    assert apart.abs().max() <= 2  # on grey levels torchvision cuts off, the luma and the blend


@SIZE
@KIND
def test_jitter_is_torchvisions_chain_in_the_order_drawn(size, kind):
    op, images = OPS["jitter"](0.4, 0.4, 0.4, 0.1, p=0.8), photos(kind, size, 30)
    params = draw(op, size, 30)

    def chain(image, factors, order, applied):
        for turn in order.tolist() if applied else []:
            image = list(FACTORS.values())[turn][0](image, factors[turn].item())
        return image

    theirs = each(chain, as_float(images), params["factors"], params["order"], params["applied"])
    assert 0 < params["applied"].sum() < 30
    assert_levels(op.render(images, params), theirs, share=1)
    torch.testing.assert_close(op.render(images, params), theirs, rtol=0, atol=1e-3)


@SIZE
@KIND
def test_grayscale_is_grayscale(size, kind):
    images = photos(kind, size)
    ours = OPS["grayscale"](1).render(images, {"applied": torch.ones(4, dtype=torch.bool)})
    torch.testing.assert_close(ours, F.rgb_to_grayscale(as_float(images), 3), rtol=0, atol=1e-6)
    assert_levels(ours, F.rgb_to_grayscale(images, 3), share=1)


@SIZE
@KIND
@in_turn("kernel, sigma", [(9, 0.1), (9, 1.3), (23, 2.0), (1, 1.0), (None, 0.7), (None, 3.0)])
def test_blur_is_gaussian_blur(size, kind, kernel, sigma):
    images = photos(kind, size)
    op = OPS["blur"](sigma, 1.0, kernel)
    width = kernel or 2 * math.ceil(3 * sigma) + 1
    ours = op.render(images, draw(op, size))
    torch.testing.assert_close(ours, F.gaussian_blur(as_float(images), width, sigma), rtol=0, atol=1e-5)
    assert_levels(ours, F.gaussian_blur(images, width, sigma), share=1)


@SIZE
@KIND
@in_turn("level", [0, 1, 110, 128, 255])
def test_solarize_is_solarize(size, kind, level):
    images = photos(kind, size)
    params = {"threshold": torch.full((4,), level / 255, dtype=torch.float64), "applied": torch.ones(4) > 0}
    assert torch.equal(OPS["solarize"]().render(images, params), F.solarize(images, level))
    assert torch.equal(as_uint8(OPS["solarize"]().render(as_float(images), params)), F.solarize(images, level))


@SIZE
@in_turn("side", [1, 5, 8, 16, 90])
@in_turn("fill", [0.0, 0.5])
def test_cutout_is_a_loop_over_pixels(size, side, fill):
    op, images = OPS["cutout"](side, p=0.7, fill=fill), photos("noise", size, 5)
    params = draw(op, size, 5)
    expected = images.clone()
    for i in range(5):
        centre_y, centre_x = (
            round(share.item() * extent) for share, extent in zip(params["centre"][i], size, strict=True)
        )
        for y in range(centre_y - side // 2, centre_y - side // 2 + side):
            for x in range(centre_x - side // 2, centre_x - side // 2 + side):
                if params["applied"][i] and 0 <= y < size[0] and 0 <= x < size[1]:
                    expected[i, :, y, x] = round(fill * 255)
    assert torch.equal(op.render(images, params), expected)


def applied(count, **params):
    """Parameters of `count` images, all applied."""
    return {**params, "applied": torch.ones(count, dtype=torch.bool)}


PARTS = {"brightness": F.adjust_brightness, "contrast": F.adjust_contrast, "color": F.adjust_saturation,
         "sharpness": F.adjust_sharpness}  # fmt: skip
STRENGTHS = [0.0, 0.1, 0.37, 0.9, 1.0, 1.3, 1.8, 3.0]


@SIZE
@KIND
@pytest.mark.parametrize("name", PARTS)
def test_parts_of_jitter_and_sharpness_are_torchvisions_on_grey_levels_and_on_floats(size, kind, name):
    images = photos(kind, size, len(STRENGTHS))
    params = applied(len(STRENGTHS), factor=torch.tensor(STRENGTHS, dtype=torch.float64))
    ours = OPS[name]().render(images, params)
    assert ours.dtype == torch.uint8
    theirs = each(PARTS[name], images, STRENGTHS)
    assert (ours.int() - theirs.int()).abs().max() <= 1  # blends are cut off: a tie may fall to the level below
    assert (ours != theirs).double().mean() <= 0.01
    floats = OPS[name]().render(as_float(images), params)
    torch.testing.assert_close(floats, each(PARTS[name], as_float(images), STRENGTHS), rtol=0, atol=3e-5)


@SIZE
@KIND
def test_posterize_is_posterize(size, kind):
    images, bits = photos(kind, size, 9), torch.arange(9)
    theirs = each(F.posterize, images, bits.tolist())
    assert torch.equal(OPS["posterize"]().render(images, applied(9, bits=bits)), theirs)
    floats = OPS["posterize"]().render(as_float(images), applied(9, bits=bits))
    assert torch.equal(as_uint8(floats), theirs)


@SIZE
@KIND
@pytest.mark.parametrize(("name", "theirs"), [("autocontrast", F.autocontrast), ("equalize", F.equalize),
                                              ("invert", F.invert)])  # fmt: skip
def test_ops_without_magnitude_are_torchvisions_to_the_last_level(size, kind, name, theirs):
    images = photos(kind, size)
    assert torch.equal(OPS[name]().render(images, applied(4)), theirs(images))
    floats = OPS[name]().render(as_float(images), applied(4))
    torch.testing.assert_close(floats, theirs(as_float(images)), rtol=0, atol=1e-6)


def test_equalize_is_pils():
    images = torch.cat([photos("smooth", size, 1)[..., :32, :32] for size in SIZES])
    ours = OPS["equalize"]().render(images, applied(3))
    for image, out in zip(images, ours, strict=True):
        theirs = ImageOps.equalize(Image.fromarray(image.permute(1, 2, 0).numpy()))
        assert np.array_equal(out.permute(1, 2, 0).numpy(), np.asarray(theirs))


@KIND
@in_turn("amount", [-255, -60, 0, 1, 30, 110, 200, 255])
@in_turn("threshold", [0, 1, 110, 128, 256])
def test_solarize_add_is_autoaugments_table(kind, amount, threshold):
    images = photos(kind, (33, 47))
    table = np.array([min(255, max(0, i + amount)) if i < threshold else i for i in range(256)], dtype=np.uint8)
    expected = torch.from_numpy(table[images.numpy()])
    op = OPS["solarize_add"](threshold=min(1.0, (threshold - 0.5) / 255) if threshold else 0.0)
    if threshold == 256:
        expected[images == 255] = 255  # a threshold of 1 leaves white alone, whatever is added
    params = applied(4, amount=torch.full((4,), amount / 255, dtype=torch.float64))
    assert torch.equal(op.render(images, params), expected)
    assert torch.equal(as_uint8(op.render(as_float(images), params)), expected)


@SIZE
def test_lighting_adds_the_principal_components(size):
    images = as_float(photos("smooth", size))
    alphas = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, -2, 0], [0.3, 1, -5]], dtype=torch.float64)
    out = OPS["lighting"]().render(images, applied(4, alphas=alphas))
    # as AlexNet's authors write it: [p1, p2, p3] [alpha1 lambda1, alpha2 lambda2, alpha3 lambda3]^T
    components = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
    added = np.stack([components @ (a * np.array([0.2175, 0.0188, 0.0045])) for a in alphas.numpy()])
    expected = np.clip(images.numpy() + added[:, :, None, None], 0, 1)
    np.testing.assert_allclose(out.numpy(), expected, rtol=0, atol=1e-6)
    assert np.abs(components.T @ components - np.eye(3)).max() < 1e-3  # they are orthonormal: no digit is misprinted


# geometry

INTERPOLATION = in_turn("interpolation", ["nearest", "bilinear"])
FILL = in_turn("fill", [0.0, 0.4, 0.5, 1.0])


@SIZE
@KIND
@INTERPOLATION
@FILL
@pytest.mark.parametrize("name", ["affine", "perspective", "rotate", "shear", "translate"])
def test_geometry_is_torchvisions(size, kind, interpolation, fill, name):
    count = 10
    arguments = {
        "affine": {"degrees": 180, "translate": (0.4, 0.2), "scale": (0.4, 2.0), "shear": (-30, 20, -10, 15)},
        "perspective": {"distortion_scale": 0.8},
        "rotate": {"degrees": (-200, 350)},
        "shear": {"x": 0.7, "y": (-0.2, 0.5)},
        "translate": {"x": 0.9, "y": 0.3},
    }[name]
    if name != "translate":
        arguments["interpolation"] = interpolation
    op, images = OPS[name](**arguments, p=1.0, fill=fill), photos(kind, size, count)
    params = draw(op, size, count)
    height, width = size

    def theirs(image, levels, row):
        value = {key: column[row].tolist() for key, column in params.items()}
        options = {"interpolation": InterpolationMode(interpolation), "fill": [fill * levels]}
        if name == "rotate":
            return F.rotate(image, value["degrees"], **options)
        if name == "shear":
            slant = [math.degrees(math.atan(tangent)) for tangent in reversed(value["tangent"])]
            return F.affine(image, 0.0, [0, 0], 1.0, slant, center=[0, 0], **options)
        if name == "perspective":
            inwards = [[round(x * width), round(y * height)] for y, x in value["corners"]]
            frame = [[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]]
            sign = [(1, 1), (-1, 1), (-1, -1), (1, -1)]
            ends = [[x + a * dx, y + b * dy] for (x, y), (a, b), (dx, dy) in zip(frame, sign, inwards, strict=True)]
            return F.perspective(image, frame, ends, **options)
        move = [round(value["shift"][1] * width), round(value["shift"][0] * height)]
        if name == "translate":
            return F.affine(image, 0.0, move, 1.0, [0.0, 0.0], **options)
        return F.affine(image, value["degrees"], move, value["scale"], value["shear"][::-1], **options)

    ours = op.render(images, params)
    assert ours.dtype == torch.uint8
    expected = torch.stack([theirs(image, 255, row) for row, image in enumerate(images)])
    apart = (ours.int() - expected.int()).abs()
    assert (apart <= 1).double().mean() >= 0.999, f"{(apart > 1).sum()} of {apart.numel()}"
    floats = torch.stack([theirs(image, 1, row) for row, image in enumerate(as_float(images))])
    near = (op.render(as_float(images), params) - floats).abs() <= 1 / 255
    assert near.double().mean() >= 0.999


@in_turn("size", [(32, 32), (32, 48)])
@in_turn("degrees", [0.0, 90.0, 180.0, 270.0, -90.0, 360.0])
@INTERPOLATION
def test_quarter_turns_are_exact(size, degrees, interpolation):
    if size[0] != size[1] and degrees % 180:
        degrees += 90
    images = photos("noise", size)
    op = OPS["rotate"](degrees=(-360, 360), interpolation=interpolation)
    ours = op.render(images, applied(4, degrees=torch.full((4,), degrees, dtype=torch.float64)))
    assert torch.equal(ours, F.rotate(images, degrees))


@SIZE
@INTERPOLATION
@pytest.mark.parametrize("name", ["affine", "perspective", "rotate", "shear", "translate"])
def test_geometry_that_moves_nothing_changes_nothing(size, interpolation, name):
    still = {
        "affine": {}, "perspective": {"distortion_scale": 0.0, "p": 1.0}, "rotate": {"degrees": 0},
        "shear": {"x": 0}, "translate": {"x": 0, "y": 0},
    }[name]  # fmt: skip
    if name != "translate":
        still["interpolation"] = interpolation
    op, images = OPS[name](**still, fill=1.0), photos("noise", size)
    assert torch.equal(op.render(images, draw(op, size)), images)


@in_turn("size", [(32, 32), (33, 47), (7, 2)])
@in_turn("scale", [0.0, 0.5, 1.0])
def test_corners_move_as_far_as_torchvision_moves_them(size, scale):
    count = 20_000
    corners = draw(OPS["perspective"](scale), size, count)["corners"] * torch.tensor(size)
    assert (corners - corners.round()).abs().max() < 1e-9
    for axis, side in enumerate(size):
        farthest = int(scale * (side // 2)) + 1
        for corner in range(4):
            _, seen = np.unique(corners[:, corner, axis].round().numpy(), return_counts=True)
            assert len(seen) == farthest
            assert farthest == 1 or stats.chisquare(seen).pvalue > 1e-4


def test_corners_that_meet_give_an_image_of_fill():
    images = as_float(photos("noise", (32, 32), 1))
    flat = torch.tensor([[[0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]], dtype=torch.float64)
    line = torch.tensor([[[0.5, 0.0], [0.5, 0.0], [15 / 32, 0.0], [15 / 32, 0.0]]], dtype=torch.float64)
    for corners in (flat, line):
        for interpolation in ("nearest", "bilinear"):
            out = OPS["perspective"](1.0, 1.0, interpolation, 0.4).render(images, applied(1, corners=corners))
            assert out.isfinite().all()
            assert out.min() >= 0
            assert out.max() <= 1
    assert torch.equal(
        OPS["perspective"](1.0, 1.0, fill=0.4).render(images, applied(1, corners=line)), torch.full_like(images, 0.4)
    )


# hidden and shuffled parts


def erase_slow(draws, height, width, scale, ratio):
    """One image of torchvision's RandomErasing.make_params, with our numbers in place of its generator."""
    areas, shapes = draws.uniform("scale", 10, *scale)[0], draws.uniform("ratio", 10, *map(math.log, ratio))[0]
    for area, shape in zip(areas.tolist(), shapes.tolist(), strict=True):
        h = round(math.sqrt(height * width * area * math.exp(shape)))
        w = round(math.sqrt(height * width * area / math.exp(shape)))
        if 0 < h < height and 0 < w < width:
            top, left = draws.uniform("top").item(), draws.uniform("left").item()
            return [math.floor(top * (height - h + 1)), math.floor(left * (width - w + 1)), h, w]
    return None


@in_turn("size", [(32, 32), (33, 47), (8, 90), (3, 3)])
@in_turn("scale", [(0.02, 0.33), (0.9, 1.0), (0.001, 0.01)])
@in_turn("ratio", [(0.3, 3.3), (1.0, 2.0)])
def test_erased_boxes_follow_the_published_algorithm(size, scale, ratio):
    params = draw(OPS["erase"](1.0, scale, ratio), size, 150)
    slow = [erase_slow(Draws(0, 0, [i], "a", "op"), *size, scale, ratio) for i in range(150)]
    assert params["applied"].tolist() == [box is not None for box in slow]
    assert box_pixels(params, size) == [box or [0, 0, 0, 0] for box in slow]


@in_turn("size", [(32, 32), (40, 64)])
def test_erased_boxes_are_distributed_as_torchvision_draws_them(size):
    count = 8000
    torch.manual_seed(0)
    image, op = torch.empty(3, *size), RandomErasing(1.0)
    drawn = (op.make_params([image]) for _ in range(count))
    theirs = np.array([[params[key] for key in "ijhw"] for params in drawn])
    ours = np.array(box_pixels(draw(OPS["erase"](1.0), size, count), size))
    for column in (*range(4), "area"):
        one, other = (b[:, 2] * b[:, 3] if column == "area" else b[:, column] for b in (ours, theirs))
        assert stats.ks_2samp(one, other, method="asymp").pvalue > 1e-3, column


@SIZE
@KIND
@in_turn("value", [0.0, 0.5, 1, (0.2, 0.6, 1.0)])
def test_erase_is_erase(size, kind, value):
    op, images = OPS["erase"](0.7, value=value), photos(kind, size, 12)
    params = draw(op, size, 12)
    assert 0 < params["applied"].sum() < 12
    fill = torch.tensor(value, dtype=torch.float64).view(-1, 1, 1)
    for kept, filling in ((images, (fill * 255).round().to(torch.uint8)), (as_float(images), fill.float())):
        rows = zip(kept, box_pixels(params, size), params["applied"], strict=True)
        theirs = [F.erase(image, *box, filling) if on else image for image, box, on in rows]
        assert torch.equal(op.render(kept, params), torch.stack(theirs))


def mix_slow(word):
    """The published function, on one Python integer."""
    word ^= word >> 16
    word = word * 0x7FEB352D % 2**32
    word ^= word >> 15
    word = word * 0x846CA68B % 2**32
    return word ^ (word >> 16)


@in_turn("channels", [1, 3, 16])
def test_noise_is_a_function_of_the_seed_and_the_place(channels):
    op, size = OPS["erase"](1.0, scale=(0.3, 0.6), value="noise"), (11, 13)
    images = torch.full((3, channels, *size), 7, dtype=torch.uint8)
    params = draw(op, size, 3)
    expected = images.clone()
    for row, (top, left, h, w) in enumerate(box_pixels(params, size)):
        for c in range(channels):
            for y in range(top, top + h):
                for x in range(left, left + w):
                    place = (c * size[0] + y) * size[1] + x
                    expected[row, c, y, x] = mix_slow((mix_slow(place) + int(params["seed"][row])) % 2**32) >> 24
    assert torch.equal(op.render(images, params), expected)
    assert torch.equal(op.render(as_float(images), params), as_float(expected))


def test_noise_is_uniform_and_independent():
    seed = torch.randint(2**32, (64,), generator=torch.Generator().manual_seed(2))
    levels = noise(seed, torch.Size([3, 40, 40]))
    counts = torch.bincount(levels.flatten(), minlength=256).numpy()
    assert stats.chisquare(counts).pvalue > 1e-4
    for row in levels[:8]:
        assert stats.chisquare(torch.bincount(row.flatten(), minlength=256).numpy()).pvalue > 1e-4
    bound = 4.5 / math.sqrt(levels[..., 1:].numel())
    pairs = [(levels[..., 1:], levels[..., :-1]), (levels[..., 1:, :], levels[..., :-1, :]),
             (levels[:, 1:], levels[:, :-1]), (levels[1:], levels[:-1])]  # fmt: skip
    near = noise(torch.arange(64), torch.Size([3, 40, 40]))  # seeds that differ in few bits
    for one, other in [*pairs, (near[1:], near[:-1])]:
        assert abs(np.corrcoef(one.flatten().numpy(), other.flatten().numpy())[0, 1]) < 1.5 * bound


@SIZE
@in_turn("n", [1, 2, 3, 4, 7])
def test_grid_shuffle_moves_whole_cells(size, n):
    op, images = OPS["grid_shuffle"](n, p=0.7), photos("noise", size, 8)
    params = draw(op, size, 8)
    expected, (h, w) = images.clone(), (size[0] // n, size[1] // n)
    for row in range(8):
        for place, cell in enumerate(params["order"][row].tolist() if params["applied"][row] else []):
            (to_y, to_x), (y, x) = divmod(place, n), divmod(cell, n)
            block = images[row, :, y * h : y * h + h, x * w : x * w + w]
            expected[row, :, to_y * h : to_y * h + h, to_x * w : to_x * w + w] = block
    assert torch.equal(op.render(images, params), expected)


@SIZE
def test_autocontrast_is_torchvisions_to_the_last_level(size):
    images = photos("smooth", size)
    assert torch.equal(histogram.autocontrast(images), F.autocontrast(images))


@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0, 1.7, 30.0])
def test_saturation_of_hsv_is_colorsyss(factor):
    """kornia's: S times the factor, at most 1; hue and value stay. The luma's differs, see `jitter(saturate=)`."""
    images = torch.rand(3, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    images[0, :, 0] = torch.tensor([[0.0, 0.5, 1.0, 0.3, 0.3], [0.0, 0.5, 1.0, 0.3, 0.0], [0.0, 0.5, 1.0, 0.9, 0.0]])
    made = saturation_hsv(images, torch.full((3,), factor))
    for place in itertools.product(range(3), range(4), range(5)):
        i, y, x = place
        h, s, v = colorsys.rgb_to_hsv(*images[i, :, y, x].double().tolist())
        expected = colorsys.hsv_to_rgb(h, min(1.0, s * factor), v)
        assert made[i, :, y, x].tolist() == pytest.approx(expected, abs=2e-6)
    assert made.min() >= -1e-6
    assert made.max() <= 1


def test_jitter_saturates_as_it_is_told():
    images = torch.rand(200, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    params = {"factors": torch.tensor([[1.0, 1.0, 1.4, 0.0]], dtype=torch.float64).repeat(200, 1),
              "order": torch.arange(4).repeat(200, 1), "applied": torch.ones(200, dtype=torch.bool)}  # fmt: skip
    luma, hsv = (Jitter(saturation=(1.4, 1.4), saturate=way).render(images, params) for way in ("luma", "hsv"))
    torch.testing.assert_close(hsv, saturation_hsv(images, params["factors"][:, 2]))
    assert not torch.equal(luma, hsv)
    with pytest.raises(ValueError, match=r"^saturate must be 'luma' or 'hsv', got 'hsl'$"):
        Jitter(saturate="hsl")
