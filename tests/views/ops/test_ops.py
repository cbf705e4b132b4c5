"""Properties of every op in the table: pure, batched, replayable, in range, and drawn as documented."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy import stats

from cases import in_turn
from manyview.errors import DataError
from manyview.views.draws import Draws
from manyview.views.ops import OPS
from manyview.views.ops.mix import MIXING
from manyview.views.ops.op import as_float
from op_cases import CASES, OBLONG, RGB, SETTINGS, SQUARE, photos

WITH_P = [(name, arguments) for name, arguments in CASES if "p" in {f.name for f in dataclasses.fields(OPS[name])}]
# columns of a difference, and what equal draws differ by where that is not 0
DIFFERENCE = {
    "affine": 6, "autocontrast": 1, "brightness": 1, "color": 1, "contrast": 1, "equalize": 1, "erase": 4,
    "grid_shuffle": 16, "invert": 1, "lighting": 3, "perspective": 8, "posterize": 1, "rotate": 1, "sharpness": 1,
    "shear": 2, "solarize_add": 1, "translate": 2,
    "blur": 1, "center_crop": 4, "channel_permutation": 3, "crop": 4, "cutout": 2, "flip": 1, "grayscale": 1,
    "jitter": 4, "pad_crop": 4, "randaugment": 17, "resize": 4, "rotate90": 1, "solarize": 1, "vflip": 1, "augmix": 17,
    "autoaugment": 17, "trivialaugment": 17, "uniformaugment": 17,
}  # fmt: skip
NEUTRAL = {"flip": [1.0], "vflip": [1.0], "channel_permutation": [0, 1, 2], "grid_shuffle": list(range(16))}
POLICIES = {"augmix", "autoaugment", "randaugment", "trivialaugment", "uniformaugment"}
# grey levels are cut off, or rounded on the way, where floats are not
COARSE = {"autocontrast": 1.001 / 255, "color": 2 / 255, "contrast": 2 / 255, "sharpness": 2 / 255}
COIN = torch.arange(6) % 2 == 0
EVERY = in_turn("name, arguments, size", SETTINGS, by="name")
EACH = in_turn("name, arguments", CASES, by="name")
DTYPES = in_turn("dtype", [torch.uint8, torch.float32])


def draw(op, count=6, size=SQUARE, seed=0, view="a"):
    return op.sample(Draws(seed, 0, range(count), view, "op"), torch.tensor([size]).expand(count, 2))


def rows(params, at):
    return {name: values[at] for name, values in params.items()}


def same_params(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_table_is_covered():
    own = {"one_of", "soften", *(name for name, op in OPS.items() if op in MIXING)}  # these have tests of their own
    alone = set(OPS) - own
    assert {name for name, _ in CASES} == alone == set(DIFFERENCE)


@EVERY
@DTYPES
def test_a_batch_is_rendered_as_its_images_are_alone(name, arguments, size, dtype):
    op, images = OPS[name](**arguments), photos(6, size, dtype)
    params = draw(op, size=size)
    assert all(len(values) == 6 for values in params.values())
    batch = op.render(images, params)
    for i in range(6):
        alone = op.render(images[i : i + 1], rows(params, slice(i, i + 1)))
        assert torch.equal(batch[i : i + 1], alone)
    order = [4, 1]
    assert torch.equal(batch[order], op.render(images[order], rows(params, order)))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("jitter", {"contrast": 0.4}),
        ("jitter", {"brightness": 0.4, "saturation": 0.4, "hue": 0.1}),
        ("crop", {"size": 96}),
        ("blur", {"p": 1.0, "sigma": 1.0}),
        ("randaugment", {"n": 3}),
        ("contrast", {}),
        ("sharpness", {}),
        ("equalize", {"p": 1.0}),
        ("affine", {"degrees": 30, "interpolation": "bilinear"}),
        ("perspective", {"p": 1.0}),
        ("augmix", {}),
    ],
    ids=str,
)
def test_large_images_on_several_threads_are_rendered_as_they_are_alone(name, arguments):
    """Reductions of 32,768 numbers and more are split among threads, but not those of a batch."""
    op, images = OPS[name](**arguments), photos(4, (224, 224))
    params = draw(op, 4, (224, 224))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        alone = torch.cat([op.render(images[i : i + 1], rows(params, slice(i, i + 1))) for i in range(4)])
        assert torch.equal(op.render(images, params), alone)
    finally:
        torch.set_num_threads(threads)


@EVERY
def test_an_image_draws_the_same_in_any_batch(name, arguments, size):
    op = OPS[name](**arguments)
    batch = draw(op, 9, size)
    for i in (0, 5, 8):
        alone = op.sample(Draws(0, 0, [i], "a", "op"), torch.tensor([size]))
        assert same_params(rows(batch, slice(i, i + 1)), alone)
    unlike = torch.tensor([size, (64, 64), size])
    mixed = op.sample(Draws(0, 0, [0, 1, 2], "a", "op"), unlike)
    assert same_params(rows(mixed, [0, 2]), rows(batch, [0, 2]))


@EVERY
@DTYPES
def test_replay_is_exact_and_inputs_are_left_alone(name, arguments, size, dtype):
    op, images = OPS[name](**arguments), photos(6, size, dtype)
    params = draw(op, size=size)
    kept_images, kept_params = images.clone(), {key: values.clone() for key, values in params.items()}
    first, difference = op.render(images, params), op.difference(params, params, {"flip": {"applied": COIN}})
    assert torch.equal(images, kept_images)
    assert same_params(params, kept_params)
    assert torch.equal(first, op.render(images, params))
    assert torch.equal(first, OPS[name](**arguments).render(images, draw(op, size=size)))
    assert torch.equal(difference, op.difference(params, params, {"flip": {"applied": COIN}}))


@EVERY
@DTYPES
def test_output_is_in_range_and_of_the_announced_size(name, arguments, size, dtype):
    op, images = OPS[name](**arguments), photos(6, size, dtype)
    sizes = torch.tensor([size]).expand(6, 2)
    out = op.render(images, op.sample(Draws(0, 0, range(6), "a", "op"), sizes))
    announced = op.output_size(sizes)
    assert announced.shape == (6, 2)
    assert announced.dtype == torch.int64
    assert out.shape == (6, 3, *announced[0].tolist())
    assert out.dtype in (torch.uint8, torch.float32)
    assert out.min() >= 0
    assert out.max() <= (255 if out.dtype == torch.uint8 else 1)


@EVERY
def test_grey_levels_and_floats_agree(name, arguments, size):
    op = OPS[name](**arguments)
    params = draw(op, size=size)
    from_levels, from_floats = (
        as_float(op.render(photos(6, size, kind), params)) for kind in (torch.uint8, torch.float)
    )
    assert (from_levels - from_floats).abs().max() <= COARSE.get(name, 1 / 255)


ANY_CHANNELS = [(name, arguments) for name, arguments in CASES if name not in RGB | POLICIES]


@in_turn("name, arguments", ANY_CHANNELS, by="name")
@in_turn("channels", [1, 4, 16])
@DTYPES
def test_channels_are_rendered_as_they_are_alone(name, arguments, channels, dtype):
    op = OPS[name](**arguments)
    images = torch.cat([photos(6, SQUARE, dtype, seed) for seed in range(6)], dim=1)[:, :channels]
    params = draw(op)
    if isinstance(getattr(op, "value", None), (tuple, list)):
        with pytest.raises(ValueError, match=f"^erase with three values needs RGB .* 3 channels, got {channels}$"):
            op.render(images, params)
        return
    out = op.render(images, params)
    assert out.shape[1] == channels
    if getattr(op, "value", None) != "noise":  # which is a channel's own
        alone = torch.cat([op.render(images[:, c : c + 1], params) for c in range(channels)], dim=1)
        assert torch.equal(out, alone)


@pytest.mark.parametrize("name", sorted(RGB))
@in_turn("channels", [1, 2, 4, 16])
@DTYPES
def test_ops_on_colours_refuse_other_channels(name, channels, dtype):
    op, images = OPS[name](), photos(2, SQUARE, dtype)[:, :1].repeat(1, channels, 1, 1)
    with pytest.raises(ValueError, match=f"^{name} needs RGB images with 3 channels, got {channels}$"):
        op.render(images, draw(op, 2))


@in_turn("name, arguments", ANY_CHANNELS, by="name")
@in_turn("level", [0.0, 1.0])
def test_black_and_white_stay_in_range(name, arguments, level):
    op = OPS[name](**arguments)
    out = op.render(torch.full((6, 1 if "value" not in arguments else 3, *SQUARE), level), draw(op))
    assert out.isfinite().all()
    assert out.min() >= 0
    assert out.max() <= 1


@EACH
@DTYPES
def test_an_empty_batch_stays_empty(name, arguments, dtype):
    op, sizes = OPS[name](**arguments), torch.zeros(0, 2, dtype=torch.long)
    params = op.sample(Draws(0, 0, [], "a", "op"), sizes)
    assert all(len(values) == 0 for values in params.values())
    full = op.render(photos(1, SQUARE, dtype), draw(op, 1))
    assert op.render(photos(1, SQUARE, dtype)[:0], params).shape == (0, *full.shape[1:])
    assert op.difference(params, params).shape == (0, DIFFERENCE[name])


@in_turn("name, arguments", WITH_P, by="name")
@DTYPES
def test_with_p_0_pixels_stay_and_with_p_1_all_are_changed_alike(name, arguments, dtype):
    never, always = (OPS[name](**{**arguments, "p": p}) for p in (0, 1))
    images = photos(6, OBLONG, dtype)
    out = never.render(images, draw(never, size=OBLONG))
    assert torch.equal(out, images if out.dtype == images.dtype else as_float(images))
    assert not draw(never)["applied"].any()
    params = draw(always, size=OBLONG)
    assert params["applied"].all()
    some = {**params, "applied": COIN}  # the coin decides image by image
    expected = torch.where(COIN.view(-1, 1, 1, 1), always.render(images, params), out)
    assert torch.equal(always.render(images, some), expected)


@EACH
def test_equal_draws_do_not_differ_and_differences_are_antisymmetric(name, arguments):
    op = OPS[name](**arguments)
    a, b = draw(op, 200), draw(op, 200, view="b")
    forth, back = op.difference(a, b), op.difference(b, a)
    assert forth.shape == back.shape == (200, DIFFERENCE[name])
    neutral = torch.tensor(NEUTRAL.get(name, [0.0] * DIFFERENCE[name]))
    assert torch.equal(op.difference(a, a), neutral.to(forth.dtype).expand_as(forth))
    if name in ("flip", "vflip"):
        assert torch.equal(forth, back)
    elif name == "rotate90":
        assert torch.equal((forth + back) % 4, torch.zeros_like(forth))
    elif name in ("channel_permutation", "grid_shuffle"):
        neutral = torch.arange(DIFFERENCE[name]).expand(200, -1)
        assert torch.equal(forth.gather(1, back), neutral)  # each the other's inverse
    else:
        assert torch.equal(forth, -back)


DRAWN = [case for case in CASES if case[0] not in ("center_crop", "resize")]


@in_turn("name, arguments", DRAWN, by="name")
def test_parameters_stay_within_their_bounds(name, arguments):
    op = OPS[name](**arguments)
    height, width = size = SQUARE if name == "rotate90" else OBLONG
    params = draw(op, 10_000, size)
    assert all(len(values) == 10_000 for values in params.values())
    if "box" in params:
        top, left, h, w = params["box"].T
        reach = getattr(op, "padding", 0)
        assert (h * height - (h * height).round()).abs().max() < 1e-9
        assert (h > 0).all()
        assert (w > 0).all()
        for start, extent, side in ((top, h, height), (left, w, width)):
            assert (start * side >= -reach - 1e-9).all()
            assert ((start + extent) * side <= side + reach + 1e-9).all()
    if name == "cutout":
        assert ((params["centre"] >= 0) & (params["centre"] < 1)).all()
    if name == "jitter":
        for column, (low, high) in zip(params["factors"].T, op.ranges(), strict=True):
            assert ((column >= low) & (column <= high)).all()
    for key in ("sigma", "threshold", "factor", "amount", "bits"):
        if key in params:
            low, high = getattr(op, key) if isinstance(getattr(op, key), tuple) else (getattr(op, key),) * 2
            assert ((params[key] >= low) & (params[key] <= high)).all()
    if name == "erase" and "seed" in params:
        assert ((params["seed"] >= 0) & (params["seed"] < 2**32)).all()
    if name == "perspective":
        assert ((params["corners"] >= 0) & (params["corners"] <= 0.5 + 1e-9)).all()
    if name == "rotate90":
        assert set(params["k"].tolist()) == {0, 1, 2, 3}
    if name == "randaugment":
        assert params["op"].shape == params["magnitude"].shape == (10_000, op.n)
        assert set(params["op"].flatten().tolist()) == set(range(1, 17) if "ops" in arguments else range(14))


# what 100,000 draws of a parameter must look like; a p-value of less than SURE is a failure, and seeds are fixed
MANY, SURE = 100_000, 1e-4
UNIFORM = [
    ("affine", {"degrees": 40}, "degrees", [(-40, 40)]),
    ("affine", {"scale": (0.5, 1.5)}, "scale", [(0.5, 1.5)]),
    ("affine", {"shear": (-9, 5, 2, 20)}, "shear", [(2, 20), (-9, 5)]),
    ("brightness", {}, "factor", [(0.6, 1.4)]),
    ("color", {"factor": (0, 3)}, "factor", [(0, 3)]),
    ("contrast", {}, "factor", [(0.6, 1.4)]),
    ("erase", {"value": "noise"}, "seed", [(0, 2**32)]),
    ("rotate", {}, "degrees", [(-30, 30)]),
    ("rotate", {"degrees": (10, 90)}, "degrees", [(10, 90)]),
    ("sharpness", {}, "factor", [(0.1, 1.9)]),
    ("shear", {"x": 0.3, "y": (0.1, 0.7)}, "tangent", [(0.1, 0.7), (-0.3, 0.3)]),
    ("solarize_add", {}, "amount", [(0, 110 / 255)]),
    ("blur", {}, "sigma", [(0.1, 2.0)]),
    ("solarize", {"threshold": (0.1, 0.9)}, "threshold", [(0.1, 0.9)]),
    ("jitter", {"brightness": 0.4, "contrast": 2, "saturation": (0.5, 0.6), "hue": 0.1}, "factors",
     [(0.6, 1.4), (0.0, 3.0), (0.5, 0.6), (-0.1, 0.1)]),
]  # fmt: skip
CELLS = [
    ("grid_shuffle", {"n": 2}, lambda p: p["order"] @ torch.tensor([64, 16, 4, 1]), 24),
    ("posterize", {"bits": (0, 8)}, lambda p: p["bits"], 9),
    ("channel_permutation", {}, lambda p: p["order"] @ torch.tensor([9, 3, 1]), 6),
    ("jitter", {}, lambda p: p["order"] @ torch.tensor([64, 16, 4, 1]), 24),
    ("rotate90", {}, lambda p: p["k"], 4),
    ("randaugment", {}, lambda p: p["op"] @ torch.tensor([14, 1]), 14 * 14),  # both turns, independent
    ("cutout", {"size": 8}, lambda p: (p["centre"] * 24).round().long() @ torch.tensor([24, 1]), 24 * 24),
    ("pad_crop", {}, lambda p: (p["box"][:, :2] * 24).round().long() @ torch.tensor([100, 1]), 9 * 9),
    ("pad_crop", {"size": 22, "padding": 0}, lambda p: (p["box"][:, :2] * 24).round().long() @ torch.tensor([9, 1]), 9),
]


@pytest.mark.parametrize(("name", "arguments", "parameter", "ranges"), UNIFORM, ids=str)
def test_ranges_are_drawn_uniformly(name, arguments, parameter, ranges):
    values = draw(OPS[name](**arguments), MANY)[parameter].view(MANY, -1).numpy()
    for column, (low, high) in zip(values.T, ranges, strict=True):
        assert stats.kstest(column, "uniform", (low, high - low)).pvalue > SURE
    assert np.abs(np.corrcoef(values.T) - np.eye(len(ranges))).max() < 4.5 / math.sqrt(MANY)


@pytest.mark.parametrize(("name", "arguments", "cell", "count"), CELLS)
def test_choices_are_equally_likely(name, arguments, cell, count):
    _, observed = np.unique(cell(draw(OPS[name](**arguments), MANY)).numpy(), return_counts=True)
    assert len(observed) == count
    assert stats.chisquare(observed).pvalue > SURE


@in_turn("p", [0.1, 0.5, 0.8])
@in_turn("name, arguments", [case for case in WITH_P if not {"p", "sigma"} & set(case[1])], by="name")
def test_ops_are_applied_as_often_as_p_says(name, arguments, p):
    applied = draw(OPS[name](**arguments, p=p), MANY)["applied"]
    assert stats.binomtest(int(applied.sum()), MANY, p).pvalue > SURE


def test_crops_of_narrow_images_hold_a_pixel_at_least():
    op = OPS["crop"](17, scale=(0.85, 0.95), ratio=(3.21, 5.82))
    for size in ((59, 1), (1, 400)):
        box = draw(op, 50, size)["box"] * torch.tensor([*size, *size])
        assert (box[:, 2:].round() >= 1).all()
        assert op.render(photos(50, size), draw(op, 50, size)).isfinite().all()


def test_crops_are_uniform_in_area_log_uniform_in_shape_and_uniform_in_place():
    """Where every try fits: area up to 0.7 and ratios to 4/3 in a square frame."""
    side = 4000
    box = draw(OPS["crop"](32, scale=(0.1, 0.7)), MANY, (side, side))["box"].numpy()
    area, shape = box[:, 2] * box[:, 3], np.log(box[:, 3] / box[:, 2])
    assert stats.kstest(area, "uniform", (0.1, 0.6)).pvalue > SURE
    assert stats.kstest(shape, "uniform", (-math.log(4 / 3), 2 * math.log(4 / 3))).pvalue > SURE
    room = np.round((1 - box[:, 2:]) * side) + 1
    place = (np.round(box[:, :2] * side) + 0.5) / room  # as a share of the room
    assert all(stats.kstest(column, "uniform").pvalue > SURE for column in place.T)
    together = np.corrcoef(np.stack([area, shape, *place.T])) - np.eye(4)
    assert np.abs(together).max() < 4.5 / math.sqrt(MANY)


@pytest.mark.parametrize(("name", "arguments"), [("translate", {"x": 0.25, "y": 0.125}),
                                                 ("affine", {"translate": (0.25, 0.125)})], ids=str)  # fmt: skip
def test_shifts_are_rounded_uniform_pixels(name, arguments):
    """Rounding gives the farthest pixel, on either side, half the chance of the others, as in `RandomAffine`."""
    shift = draw(OPS[name](**arguments), MANY)["shift"] * 24
    assert (shift - shift.round()).abs().max() < 1e-9
    for column, farthest in zip(shift.T, (3, 6), strict=True):
        values, observed = np.unique(column.round().numpy(), return_counts=True)
        assert values.tolist() == list(range(-farthest, farthest + 1))
        chance = np.full(len(values), 1 / (2 * farthest))
        chance[[0, -1]] /= 2
        assert stats.chisquare(observed, MANY * chance).pvalue > SURE


def test_alphas_are_normal_and_independent():
    alphas = draw(OPS["lighting"](0.25), MANY)["alphas"].numpy()
    assert all(stats.kstest(column / 0.25, "norm").pvalue > SURE for column in alphas.T)
    assert np.abs(np.corrcoef(alphas.T) - np.eye(3)).max() < 4.5 / math.sqrt(MANY)


def test_erased_boxes_are_uniform_in_area_log_uniform_in_shape_and_uniform_in_place():
    """Where every try fits: area up to 0.25 and ratios to 3.3 in a square frame."""
    side = 4000
    params = draw(OPS["erase"](1.0, scale=(0.02, 0.25)), MANY, (side, side))
    box = params["box"].numpy()
    area, shape = box[:, 2] * box[:, 3], np.log(box[:, 2] / box[:, 3])
    assert params["applied"].all()
    assert stats.kstest(area, "uniform", (0.02, 0.23)).pvalue > SURE
    assert stats.kstest(shape, "uniform", (math.log(0.3), math.log(3.3) - math.log(0.3))).pvalue > SURE
    room = np.round((1 - box[:, 2:]) * side) + 1
    place = (np.round(box[:, :2] * side) + 0.5) / room  # as a share of the room
    assert all(stats.kstest(column, "uniform").pvalue > SURE for column in place.T)
    together = np.corrcoef(np.stack([area, shape, *place.T])) - np.eye(4)
    assert np.abs(together).max() < 4.5 / math.sqrt(MANY)


def crop_difference_slow(a, b, flip, vflip):
    """METHODS: centre y, centre x, height, width, a minus b; both centres mirrored where view a is."""
    (top_a, left_a, h_a, w_a), (top_b, left_b, h_b, w_b) = a, b
    ys, xs = [top_a + h_a / 2, top_b + h_b / 2], [left_a + w_a / 2, left_b + w_b / 2]
    if flip:
        xs = [1 - x for x in xs]
    if vflip:
        ys = [1 - y for y in ys]
    return [ys[0] - ys[1], xs[0] - xs[1], h_a - h_b, w_a - w_b]


@pytest.mark.parametrize("name", ["crop", "pad_crop"])
def test_crop_difference_is_taken_in_the_frame_of_view_a(name):
    op = OPS[name](16)
    # by hand: a is the right half, flipped; b the left half of the upper half. x: 0.75 -> 0.25 and 0.25 -> 0.75
    a, b = ({"box": torch.tensor([box], dtype=torch.float64)} for box in ([0, 0.5, 1, 0.5], [0, 0, 0.5, 0.5]))
    on, off = torch.tensor([True]), torch.tensor([False])
    assert op.difference(a, b, {"flip": {"applied": on}}).tolist() == [[0.25, -0.5, 0.5, 0.0]]
    assert op.difference(a, b, {"flip": {"applied": off}}).tolist() == [[0.25, 0.5, 0.5, 0.0]]
    assert op.difference(a, b).tolist() == [[0.25, 0.5, 0.5, 0.0]]

    a, b = draw(op, 500, OBLONG), draw(op, 500, OBLONG, view="b")
    frame = {
        kind: OPS[kind]().sample(Draws(0, 0, range(500), "a", kind), torch.zeros(500, 2)) for kind in ("flip", "vflip")
    }
    boxes = zip(a["box"].tolist(), b["box"].tolist(), *(p["applied"].tolist() for p in frame.values()), strict=True)
    expected = torch.tensor([crop_difference_slow(*row) for row in boxes], dtype=torch.float64)
    torch.testing.assert_close(op.difference(a, b, frame), expected, rtol=0, atol=1e-12)


def test_differences_say_how_to_get_from_b_to_a():
    images = photos(40, SQUARE)
    for name in ("rotate90", "channel_permutation", "flip", "vflip", "grid_shuffle"):
        op = OPS[name]()
        a, b = draw(op, 40), draw(op, 40, view="b")
        seen_a, seen_b = op.render(images, a), op.render(images, b)
        for row, change in enumerate(op.difference(a, b)):
            if name == "rotate90":
                assert torch.equal(seen_a[row], seen_b[row].rot90(int(change), dims=(-2, -1)))
            elif name == "channel_permutation":
                assert torch.equal(seen_a[row], seen_b[row][change])
            elif name == "grid_shuffle":
                cells_a, cells_b = (
                    torch.stack([cell for line in seen[row].split(6, dim=1) for cell in line.split(6, dim=2)])
                    for seen in (seen_a, seen_b)
                )
                assert torch.equal(cells_a, cells_b[change])
            else:
                assert torch.equal(seen_a[row], seen_b[row]) == bool(change)


def of(**values):
    return {name: torch.tensor([value]) for name, value in values.items()}


JITTER = {"brightness": 0.4, "contrast": (0.5, 2.5), "saturation": 0.0, "hue": 0.1}
WORKED = [
    ("affine", {"degrees": 40, "translate": (0.5, 0.25), "scale": (0.5, 2.5), "shear": (-10, 10, 5, 20)},
     of(degrees=20.0, shift=[0.125, -0.25], scale=2.0, shear=[10.0, 5.0], applied=True),
     of(degrees=-20.0, shift=[0.0, 0.25], scale=1.5, shear=[20.0, -5.0], applied=True),
     [0.5, 0.25, -0.5, 0.25, -0.5, 0.5]),
    ("affine", {"degrees": 40, "translate": (0.5, 0.25), "scale": (1.5, 3)},
     of(degrees=20.0, shift=[0.125, -0.25], scale=2.0, shear=[0.0, 0.0], applied=True),
     of(degrees=-20.0, shift=[0.0, 0.25], scale=1.5, shear=[0.0, 0.0], applied=False), [0.25, 0.25, -0.25, 0.5, 0, 0]),
    ("autocontrast", {}, of(applied=True), of(applied=False), [1.0]),
    ("brightness", {"factor": (0.5, 1.5)}, of(factor=0.75, applied=True), of(factor=1.5, applied=True), [-0.75]),
    ("color", {"factor": (1.5, 3)}, of(factor=2.0, applied=True), of(factor=3.0, applied=False), [0.5]),
    ("contrast", {"factor": 1}, of(factor=1.0, applied=True), of(factor=1.0, applied=False), [0.0]),
    ("equalize", {}, of(applied=False), of(applied=True), [-1.0]),
    ("erase", {}, of(box=[0.5, 0.25, 0.5, 0.25], applied=True), of(box=[0, 0.5, 0.5, 0.5], applied=True),
     [0.5, -0.375, 0, -0.25]),
    ("erase", {}, of(box=[0.5, 0.25, 0.5, 0.25], applied=False), of(box=[0, 0.5, 0.5, 0.5], applied=True),
     [-0.25, -0.75, -0.5, -0.5]),
    ("grid_shuffle", {"n": 2}, of(order=[2, 3, 1, 0], applied=True), of(order=[1, 0, 2, 3], applied=False),
     [2, 3, 1, 0]),
    ("grid_shuffle", {"n": 2}, of(order=[2, 3, 1, 0], applied=True), of(order=[1, 0, 2, 3], applied=True),
     [2, 3, 0, 1]),
    ("invert", {}, of(applied=True), of(applied=True), [0.0]),
    ("lighting", {}, of(alphas=[1.0, 0, 0], applied=True), of(alphas=[0, 1.0, 0], applied=False),
     [0.2175 * -0.5675, 0.2175 * -0.5808, 0.2175 * -0.5836]),
    ("perspective", {}, of(corners=[[0.25, 0.5], [0, 0], [0, 0], [0, 0.125]], applied=True),
     of(corners=[[0.125, 0], [0, 0], [0, 0], [0, 0.25]], applied=True), [0.125, 0.5, 0, 0, 0, 0, 0, -0.125]),
    ("posterize", {"bits": (4, 6)}, of(bits=4, applied=True), of(bits=6, applied=True), [-0.5]),
    ("posterize", {"bits": (4, 6)}, of(bits=4, applied=True), of(bits=6, applied=False), [-1.0]),
    ("rotate", {"degrees": (-10, 30)}, of(degrees=20.0, applied=True), of(degrees=-10.0, applied=True), [0.75]),
    ("sharpness", {"factor": (0, 2)}, of(factor=2.0, applied=True), of(factor=2.0, applied=False), [0.5]),
    ("shear", {"x": 0.5, "y": (0.0, 1.0)}, of(tangent=[0.5, -0.5], applied=True), of(tangent=[0.0, 0.5], applied=True),
     [0.5, -1.0]),
    ("solarize_add", {"amount": (0.0, 0.5)}, of(amount=0.25, applied=True), of(amount=0.5, applied=True), [-0.5]),
    ("translate", {"x": 0.5, "y": 0}, of(shift=[0.0, 0.25], applied=True), of(shift=[0.0, 0.5], applied=False),
     [0, 0.25]),
    ("blur", {"sigma": (0.5, 2.0)}, of(sigma=1.5, applied=True), of(sigma=0.5, applied=True), [0.5]),
    ("blur", {"sigma": (0.5, 2.0)}, of(sigma=1.5, applied=True), of(sigma=0.5, applied=False), [0.75]),
    ("solarize", {}, of(threshold=0.25, applied=True), of(threshold=0.5, applied=True), [-0.25]),
    ("solarize", {}, of(threshold=0.25, applied=True), of(threshold=0.5, applied=False), [-0.75]),
    ("grayscale", {}, of(applied=False), of(applied=True), [-1.0]),
    ("cutout", {"size": 2}, of(centre=[0.5, 0.25], applied=True), of(centre=[0.25, 0.5], applied=True), [0.25, -0.25]),
    ("cutout", {"size": 2}, of(centre=[0.5, 0.25], applied=True), of(centre=[0.25, 0.5], applied=False), [0.5, 0.25]),
    ("jitter", JITTER, of(factors=[1.4, 2.0, 1.0, 0.1], applied=True), of(factors=[0.6, 0.5, 1.0, -0.1], applied=True),
     [1.0, 0.75, 0.0, 1.0]),
    ("jitter", JITTER, of(factors=[1.4, 2.0, 1.0, 0.1], applied=False), of(factors=[0.6, 0.5, 1.0, -0.1], applied=True),
     [0.5, 0.25, 0.0, 0.5]),
    # ranges without 1, the farthest from where the op is not applied
    ("jitter", {"brightness": (1.5, 3.0), "contrast": (0.1, 0.4), "saturation": (2.0, 2.0), "hue": (0.2, 0.5)},
     of(factors=[3.0, 0.1, 2.0, 0.5], applied=True), of(factors=[2.0, 0.2, 2.0, 0.3], applied=False),
     [1.0, -1.0, 1.0, 1.0]),
    ("randaugment", {}, of(op=[1, 1], magnitude=[0.25, -0.5]), of(op=[4, 5], magnitude=[3.0, 9.0]),
     [0, -0.25, 0, 0, -3, -9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    ("autoaugment", {}, of(op=[1, 1], magnitude=[0.25, -0.5], applied=[True, False]),
     of(op=[1, 16], magnitude=[0.5, 8.0], applied=[True, True]),
     [0, -0.25, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, -8]),
    ("augmix", {"width": 2, "depth": 2},
     of(blend=0.5, weights=[0.75, 0.25], op=[[1, 2], [2, 0]], magnitude=[[0.2, 0.4], [-0.8, 0.0]]),
     of(blend=0.0, weights=[0.5, 0.5], op=[[5, 5], [5, 5]], magnitude=[[9.0, 9.0], [9.0, 9.0]]),
     [0, 0.075, 0.05, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
]  # fmt: skip


@in_turn("name, arguments, a, b, expected", WORKED, by="name")
def test_differences_worked_by_hand(name, arguments, a, b, expected):
    torch.testing.assert_close(OPS[name](**arguments).difference(a, b).double(), torch.tensor([expected]).double())


ENDS = [(2, 1), "x", math.nan, (0, 1, 2), None, True, ("a", "b"), (0, math.nan)]  # no range, whatever the op
REFUSED = [
    ("affine", [*({"degrees": bad} for bad in [-1, 400, *ENDS]), *({"translate": bad} for bad in [0.1, (0.1,), (2, 0)]),
                *({"scale": bad} for bad in [0, -1, *ENDS]), *({"shear": bad} for bad in [-1, 90, (0, 1, 2, 1), *ENDS]),
                {"interpolation": "cubic"}, {"fill": 2}]),
    ("brightness", [{"factor": bad} for bad in [-1, *ENDS]]),
    ("color", [{"factor": bad} for bad in [-1, *ENDS]]),
    ("contrast", [{"factor": bad} for bad in [-1, *ENDS]]),
    ("erase", [*({"scale": bad} for bad in [-0.1, 1.5, *ENDS]), *({"ratio": bad} for bad in [0, *ENDS]),
               *({"value": bad} for bad in [2, -1, "random", (0, 1), (0, 0, 2), None, True, math.nan, ("a", 0, 0)])]),
    ("grid_shuffle", [{"n": 0}, {"n": 2.0}, {"n": True}, {"n": "4"}, {"n": None}]),
    ("lighting", [{"std": -1}, {"std": (0, 1)}, {"std": "x"}, {"std": math.nan}, {"std": True}]),
    ("perspective", [*({"distortion_scale": bad} for bad in [-0.1, 1.1, math.nan, (0, 1), "x", True, None]),
                     {"interpolation": "box"}, {"interpolation": None}, {"fill": -0.1}, {"fill": (0, 0, 0)}]),
    ("posterize", [{"bits": bad} for bad in [-1, 9, 4.0, (5, 4), (0, 9), True, "4", None, (1, 2, 3)]]),
    ("rotate", [*({"degrees": bad} for bad in [-1, 361, *ENDS]), {"interpolation": 1}, {"fill": math.nan}]),
    ("sharpness", [{"factor": bad} for bad in [-0.1, *ENDS]]),
    ("shear", [*({axis: bad} for axis in "xy" for bad in [-1, 11, *ENDS]), {"interpolation": "area"}, {"fill": "x"}]),
    ("solarize_add", [*({"amount": bad} for bad in [-2, 1.1, *ENDS]),
                      *({"threshold": bad} for bad in [2, (0, 1), None])]),
    ("translate", [*({axis: bad} for axis in "xy" for bad in [-0.1, 2, *ENDS]), {"fill": 1.5}]),
    ("augmix", [{"severity": 0}, {"severity": 11}, {"severity": 3.0}, {"width": 0}, {"depth": 0}, {"depth": -2},
                {"depth": 1.0}, {"alpha": 0}, {"alpha": -1.0}, {"alpha": math.nan}, {"alpha": math.inf},
                {"alpha": "x"}, {"all_ops": 1}, {"fill": 2}, {"interpolation": "cubic"}]),
    ("autoaugment", [{"fill": -1}, {"fill": (0, 1)}, {"interpolation": 1}]),
    ("blur", [{"sigma": 0}, {"sigma": (2, 1)}, {"sigma": math.nan}, {"sigma": "x"}, {"kernel": 4},
              {"kernel": -1}, {"kernel": 3.0}]),
    ("center_crop", [{"size": 0}, {"size": -3}, {"size": 1.5}, {"size": "8"}, {"size": None}]),
    ("crop", [{"size": 0}, {"size": (1, 2, 3)}, {"size": (8, 0)}, {"size": 8, "scale": (0.5, 0.2)},
              {"size": 8, "scale": (0, 2)}, {"size": 8, "scale": -0.1}, {"size": 8, "ratio": (0, 1)},
              {"size": 8, "ratio": None}]),
    ("cutout", [{"size": 0}, {"size": 2.0}, {"size": 3, "fill": 2}, {"size": 3, "fill": math.nan}]),
    ("jitter", [{"brightness": -1}, {"contrast": -1}, {"saturation": -0.1}, {"hue": 0.6}, {"hue": -0.1},
                {"hue": (-1, 0)}, {"brightness": (2, 1)}, {"contrast": (-1, 1)},
                {"brightness": "x"}, {"saturation": math.nan}]),
    ("pad_crop", [{"size": 0}, {"padding": -1}, {"padding": 1.0}, {"mode": "edge"}]),
    ("randaugment", [{"n": 0}, {"n": 1.0}, {"m": -1}, {"m": 31}, {"m": 9.5}, {"fill": 2},
                     {"fill": "x"}, {"interpolation": "cubic"}]),
    ("resize", [{"size": 0}, {"size": (3,)}]),
    ("trivialaugment", [{"fill": 1.5}, {"interpolation": None}]),
    ("uniformaugment", [{"n": 0}, {"n": True}, {"fill": -0.1}, {"interpolation": "box"}]),
    ("solarize", [{"threshold": 2}, {"threshold": (0.8, 0.2)}, {"threshold": -0.1}]),
]  # fmt: skip
BAD = [(name, arguments) for name, each in REFUSED for arguments in each]
BAD += [(name, {**arguments, "p": p}) for name, arguments in WITH_P[::2] for p in (-0.1, 1.1, math.nan, None, "x")]
FLAGS = [("crop", {"size": True}), ("blur", {"kernel": True}), ("crop", {"size": (8, True)})]
BAD += FLAGS
WORDS = [("blur", {"sigma": ("a", "b")}), ("cutout", {"size": 3, "fill": "x"})]
BAD += WORDS


@in_turn("name, arguments", BAD, by="name")
def test_bad_arguments_are_refused_by_name(name, arguments):
    with pytest.raises(ValueError, match=rf"^({'|'.join(arguments)}) must "):
        OPS[name](**arguments)


@pytest.mark.parametrize("name", DIFFERENCE)
def test_ops_are_frozen_and_equal_by_their_arguments(name):
    arguments = next(arguments for case, arguments in CASES if case == name)
    op = OPS[name](**arguments)
    assert op == OPS[name](**arguments)
    with pytest.raises(dataclasses.FrozenInstanceError):
        op.p = 1


UNFIT = [
    ("grid_shuffle", {"n": 25}, SQUARE, "grid_shuffle\\(25\\) needs 25 pixels a side, got an image of 24x24"),
    ("rotate90", {}, OBLONG, "square"),
    ("center_crop", {"size": 32}, SQUARE, "24x24, too small"),
    ("pad_crop", {"size": 40, "padding": 4}, SQUARE, "24x24, too small"),
    ("pad_crop", {"padding": 24, "mode": "reflect"}, SQUARE, "too small"),
]


@pytest.mark.parametrize(("name", "arguments", "size", "message"), UNFIT, ids=str)
def test_images_that_do_not_fit_are_refused(name, arguments, size, message):
    op = OPS[name](**arguments)
    with pytest.raises(DataError, match=message):
        op.render(photos(2, size), draw(op, 2, size))


@EACH
@DTYPES
def test_images_are_rendered_on_their_device(name, arguments, dtype):
    """On `meta`, which stands for any other device than the CPU, with parameters where they were drawn."""
    op = OPS[name](**arguments)
    assert op.render(photos(6, SQUARE, dtype).to("meta"), draw(op)).device.type == "meta"


@EACH
@DTYPES
def test_parameters_on_a_device_stay_there(name, arguments, dtype):
    """Nothing comes back to the host: `meta` has no numbers to give."""
    op = OPS[name](**arguments)
    params = {key: values.to("meta") for key, values in draw(op).items()}
    assert op.render(photos(6, SQUARE, dtype).to("meta"), params).device.type == "meta"


ONE_OF_EACH = {case[0]: case for case in CASES if case[0] not in POLICIES}  # those have a test of their own


@pytest.mark.parametrize(("name", "arguments"), ONE_OF_EACH.values(), ids=str)
def test_rendering_is_one_graph(name, arguments):
    op = OPS[name](**arguments)
    params = draw(op)
    torch.compiler.reset()
    traced = torch.compile(op.render, fullgraph=True, backend="eager")
    for dtype in (torch.uint8, torch.float32):
        assert torch.equal(traced(photos(6, SQUARE, dtype), params), op.render(photos(6, SQUARE, dtype), params))


@pytest.mark.parametrize("name", DIFFERENCE)
def test_differences_are_taken_on_the_device_of_the_parameters(name):
    """On `meta`, which stands for any other device than the CPU."""
    op = OPS[name](**next(arguments for case, arguments in CASES if case == name))
    params = {key: values.to("meta") for key, values in draw(op).items()}
    frame = {"flip": {"applied": COIN.to("meta")}}
    assert op.difference(params, params, frame).device.type == "meta"
