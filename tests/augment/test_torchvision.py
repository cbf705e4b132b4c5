"""Given the same parameters, every op makes what torchvision makes, in grey levels; and crops are drawn as there."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms.v2 import RandAugment as TorchvisionRandAugment
from torchvision.transforms.v2 import functional as F

from manyview.augment import OPS, color, histogram
from manyview.augment.crop import fractions
from manyview.augment.op import as_float, as_uint8
from manyview.augment.randaugment import BINS, POLICY
from manyview.draws import Draws

SIZES = [(32, 32), (33, 47), (64, 40)]
KINDS = ["noise", "smooth", "flat"]
SIZE = pytest.mark.parametrize("size", SIZES, ids=str)
KIND = pytest.mark.parametrize("kind", KINDS)


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
@pytest.mark.parametrize("target", [(16, 16), (24, 50), (80, 80)], ids=str)  # smaller, mixed, larger
def test_crop_is_resized_crop(size, kind, target):
    op, images = OPS["crop"](target), photos(kind, size, 12)
    params = draw(op, size, 12)
    ours, boxes = op.render(images, params), box_pixels(params, size)
    assert_levels(ours, each(lambda x, box: F.resized_crop(x, *box, list(target), antialias=True), images, boxes))
    floats = each(lambda x, box: F.resized_crop(x, *box, list(target), antialias=True), as_float(images), boxes)
    torch.testing.assert_close(ours, floats, rtol=0, atol=1e-5)


@pytest.mark.parametrize("box", [(0, 0, 1, 1), (31, 46, 2, 1), (0, 0, 33, 47), (5, 7, 3, 40)], ids=str)
def test_crop_of_extreme_boxes_is_resized_crop(box):
    images = photos("noise", (33, 47), 2)
    params = {"box": fractions(torch.tensor([box, box]).double(), torch.tensor([[33, 47]] * 2))}
    theirs = F.resized_crop(as_float(images), *box, [20, 24], antialias=True)
    torch.testing.assert_close(OPS["crop"]((20, 24)).render(images, params), theirs, rtol=0, atol=1e-5)


@SIZE
@KIND
@pytest.mark.parametrize("target", [16, 37, 100, (20, 70)], ids=str)
def test_resize_is_resize(size, kind, target):
    op, images = OPS["resize"](target), photos(kind, size)
    theirs = F.resize(images, target if isinstance(target, int) else list(target), antialias=True)
    assert_levels(op.render(images, draw(op, size)), theirs)
    assert op.output_size(torch.tensor([size])).tolist() == [list(theirs.shape[-2:])]


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (333, 1000), (97, 31)], ids=str)
@pytest.mark.parametrize("target", [32, 224, 256])
def test_resize_rounds_the_longer_side_as_torchvision(size, target):
    theirs = F.resize(torch.zeros(1, *size, dtype=torch.uint8), target).shape[-2:]
    assert OPS["resize"](target).output_size(torch.tensor([size])).tolist() == [list(theirs)]


@SIZE
@KIND
@pytest.mark.parametrize(("mode", "theirs"), [("zeros", "constant"), ("reflect", "reflect")])
@pytest.mark.parametrize("target", [None, (30, 21)], ids=str)
def test_pad_crop_is_pad_and_crop(size, kind, mode, theirs, target):
    op, images = OPS["pad_crop"](target, padding=4, mode=mode), photos(kind, size, 20)
    params = draw(op, size, 20)
    boxes = [(top + 4, left + 4, height, width) for top, left, height, width in box_pixels(params, size)]
    padded = F.pad(images, [4], padding_mode=theirs)
    assert torch.equal(op.render(images, params), each(lambda x, box: F.crop(x, *box), padded, boxes))


@SIZE
@pytest.mark.parametrize("target", [31, 32, (17, 30), (1, 1)], ids=str)
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


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (20, 90), (90, 20), (375, 500)], ids=str)
@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.9, 1.0), (0.001, 0.01)], ids=str)
@pytest.mark.parametrize("ratio", [(3 / 4, 4 / 3), (1.0, 2.0)], ids=str)
def test_crop_boxes_follow_the_published_algorithm(size, scale, ratio):
    """Tries, the first that fits, the fallback to the centre: against a loop over one image at a time."""
    boxes = box_pixels(draw(OPS["crop"](8, scale, ratio), size, 150), size)
    slow = [crop_slow(Draws(0, 0, [i], "a", "op"), *size, scale, ratio) for i in range(150)]
    assert boxes == slow


@pytest.mark.parametrize("size", [(32, 32), (40, 64)], ids=str)
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
@pytest.mark.parametrize(("kernel", "sigma"), [(9, 0.1), (9, 1.3), (23, 2.0), (1, 1.0), (None, 0.7), (None, 3.0)])
def test_blur_is_gaussian_blur(size, kind, kernel, sigma):
    images = photos(kind, size)
    op = OPS["blur"](sigma, 1.0, kernel)
    width = kernel or 2 * math.ceil(3 * sigma) + 1
    ours = op.render(images, draw(op, size))
    torch.testing.assert_close(ours, F.gaussian_blur(as_float(images), width, sigma), rtol=0, atol=1e-5)
    assert_levels(ours, F.gaussian_blur(images, width, sigma), share=1)


@SIZE
@KIND
@pytest.mark.parametrize("level", [0, 1, 110, 128, 255])
def test_solarize_is_solarize(size, kind, level):
    images = photos(kind, size)
    params = {"threshold": torch.full((4,), level / 255, dtype=torch.float64), "applied": torch.ones(4) > 0}
    assert torch.equal(OPS["solarize"]().render(images, params), F.solarize(images, level))
    assert torch.equal(as_uint8(OPS["solarize"]().render(as_float(images), params)), F.solarize(images, level))


@SIZE
@pytest.mark.parametrize("side", [1, 5, 8, 16, 90])
@pytest.mark.parametrize("fill", [0.0, 0.5])
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


# RandAugment

THEIRS = TorchvisionRandAugment()
TABLE = dict(zip(POLICY, THEIRS._AUGMENTATION_SPACE.items(), strict=True))  # both list the fourteen in one order
CUT_OFF = ("color", "sharpness", "autocontrast")  # blends cut off to whole levels: a tie may fall to the level below


def test_the_policies_name_the_same_ops():
    spelled = {name: theirs.lower() for name, (theirs, _) in TABLE.items()}
    assert {name: name.replace("_", "") for name in POLICY} == spelled


@pytest.mark.parametrize("name", POLICY)
@pytest.mark.parametrize("size", [*SIZES, (224, 160), (375, 500), (331, 662)], ids=str)
def test_magnitudes_are_torchvisions(name, size):
    strength, signed, _ = POLICY[name]
    _, (table, theirs_signed) = TABLE[name]
    theirs = table(BINS, *size)
    assert signed == theirs_signed
    for m in range(BINS):
        ours = strength(m / (BINS - 1), torch.tensor([size], dtype=torch.float64)).item()
        value = 0.0 if theirs is None else float(theirs[m])
        assert ours == pytest.approx(int(value) if name.startswith("translate") else value, abs=1e-6), m


@SIZE
@KIND
@pytest.mark.parametrize("name", POLICY)
@pytest.mark.parametrize("m", [0, 1, 5, 9, 14, 19, 25, 30])
def test_every_op_of_randaugment_is_torchvisions(size, kind, name, m):
    strength, signed, _ = POLICY[name]
    magnitude = strength(m / (BINS - 1), torch.tensor([size], dtype=torch.float64)).item()
    images = photos(kind, size, 2)
    for value in (magnitude, -magnitude) if signed else (magnitude,):
        params = {"op": torch.full((2, 1), list(POLICY).index(name)), "magnitude": torch.full((2, 1), value).double()}
        ours = OPS["randaugment"](1, m).render(images, params)
        theirs = THEIRS._apply_image_or_video_transform(images, TABLE[name][0], value, InterpolationMode.NEAREST, {})
        assert ours.dtype == theirs.dtype == torch.uint8
        assert (ours.int() - theirs.int()).abs().max() <= (1 if name in CUT_OFF else 0)
        assert (ours != theirs).double().mean() <= 0.03


@SIZE
def test_autocontrast_is_torchvisions_to_the_last_level(size):
    images = photos("smooth", size)
    assert torch.equal(histogram.autocontrast(images), F.autocontrast(images))


def test_randaugment_applies_its_ops_in_turn():
    op, images = OPS["randaugment"](3, 14), photos("smooth", (33, 47), 60)
    params = draw(op, (33, 47), 60)
    expected = images
    for turn in range(3):
        one = {name: values[:, turn : turn + 1] for name, values in params.items()}
        expected = OPS["randaugment"](1, 14).render(expected, one)
    assert torch.equal(op.render(images, params), expected)
