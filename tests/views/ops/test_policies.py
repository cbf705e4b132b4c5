"""Policies: the same ops, magnitudes and pixels as torchvision's, and draws as the papers say."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torchvision.transforms import InterpolationMode, v2

from cases import in_turn
from manyview.errors import RecipeError
from manyview.views.draws import Draws
from manyview.views.engine.render import render
from manyview.views.ops import OPS
from manyview.views.ops.augmix import ENHANCERS, dirichlet
from manyview.views.ops.augmix import SPACE as AUGMIX
from manyview.views.ops.autoaugment import POLICIES
from manyview.views.ops.autoaugment import SPACE as AUTOAUGMENT
from manyview.views.ops.cubic import warp_cubic
from manyview.views.ops.op import as_float
from manyview.views.ops.policy import CODES, POLICY_OPS, apply_policy_op, apply_policy_ops, magnitudes_of, summed
from manyview.views.ops.randaugment import SETS
from manyview.views.ops.trivialaugment import SPACES
from manyview.views.ops.uniformaugment import SPACE as UNIFORM
from manyview.views.plan import ViewSpec, plan_views

SIZES = [(32, 32), (33, 47), (64, 40)]
SIZE = in_turn("size", SIZES)
KIND = in_turn("kind", ["noise", "smooth", "flat"])
NAMES = list(POLICY_OPS)
THEIRS = v2.RandAugment()
# torchvision's names, spelled without case and underscores
SPELLED = {name.lower(): name for name in (*v2.RandAugment._AUGMENTATION_SPACE, "Invert")}
MODES = {"nearest": InterpolationMode.NEAREST, "bilinear": InterpolationMode.BILINEAR}
# the policies in unlike forms, with what their chains are drawn from
POLICY_CASES = [
    ("randaugment", {"n": 3, "m": 14}),
    ("randaugment", {"n": 2, "m": 30, "interpolation": "bilinear"}),
    ("randaugment", {"n": 3, "m": 9, "ops": "tpu"}),
    ("randaugment", {"n": 2, "m": 25, "ops": "tpu", "fill": 0.2}),
    ("autoaugment", {"policy": "cifar10"}),
    ("autoaugment", {"policy": "imagenet"}),
    ("autoaugment", {"policy": "svhn", "fill": 0.5}),
    ("trivialaugment", {}),
    ("trivialaugment", {"space": "standard"}),
    ("uniformaugment", {"n": 3}),
]
CASES = pytest.mark.parametrize(("name", "arguments"), POLICY_CASES, ids=str)
# what 100,000 draws must look like; a p-value of less than SURE is a failure, and seeds are fixed
MANY, SURE = 100_000, 1e-4


def photos(kind, size, count=4):
    """uint8 [count, 3, h, w]: every pixel its own, a smooth gradient of few levels, or one colour each."""
    generator = torch.Generator().manual_seed(1)
    if kind == "noise":
        return torch.randint(0, 256, (count, 3, *size), generator=generator, dtype=torch.uint8)
    coarse = torch.rand(count, 3, *((4, 4) if kind == "smooth" else (1, 1)), generator=generator) * 200 + 20
    return v2.functional.resize(coarse, list(size), antialias=True).round().to(torch.uint8)


def draw(op, size, count=4, view="a"):
    return op.sample(Draws(0, 0, range(count), view, "op"), torch.tensor([size]).expand(count, 2))


def fill_of(op):
    """The level that an op fills with."""
    return round(255 * (SETS[op.ops][1] if getattr(op, "ops", None) and op.fill is None else op.fill))


def theirs_of(image, name, magnitude, interpolation="nearest", level=0, centre=None):
    """One op on one uint8 image [3, h, w]: torchvision's kernel, or a loop where it has none."""
    if name == "solarize_add":
        return torch.where(image < 128, (image.int() + round(255 * magnitude)).clamp(0, 255), image).to(torch.uint8)
    if name == "cutout":
        out, side = image.clone(), int(magnitude)
        top, left = (round(share * extent) - side // 2 for share, extent in zip(centre, image.shape[1:], strict=True))
        for y in range(max(top, 0), min(top + side, image.shape[1])):
            for x in range(max(left, 0), min(left + side, image.shape[2])):
                out[:, y, x] = level
        return out
    fill = {torch.Tensor: [float(level)]} if level else {}
    spelled = SPELLED[name.replace("_", "")]
    return THEIRS._apply_image_or_video_transform(image, spelled, magnitude, MODES[interpolation], fill)


def theirs_in_turn(image, codes, magnitudes, applied, centres, interpolation, level):
    for turn, code in enumerate(codes.tolist()):
        if applied[turn]:
            centre = None if centres is None else centres[turn].tolist()
            image = theirs_of(image, NAMES[code], magnitudes[turn].item(), interpolation, level, centre)
    return image


def assert_levels(ours, theirs, share=0.999):
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype == torch.uint8
    apart = (ours.int() - theirs.int()).abs()
    assert (apart <= 1).double().mean() >= share, f"{(apart > 1).sum()} of {apart.numel()} pixels differ by more"


# the table


def test_codes_are_recorded_in_runs_and_so_never_change():
    assert NAMES == [
        "identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "color", "contrast",
        "sharpness", "posterize", "solarize", "autocontrast", "equalize", "invert", "solarize_add", "cutout",
    ]  # fmt: skip
    assert list(CODES.values()) == list(range(17))
    with pytest.raises(TypeError):
        POLICY_OPS["flip"] = POLICY_OPS["identity"]


def test_the_table_says_which_ops_need_a_fill():
    needy = {name for name, op in POLICY_OPS.items() if op.needs_fill}
    images, centre = photos("noise", (33, 47), 17), torch.full((17, 2), 0.5).double()
    magnitude = torch.tensor([4.0 if name in ("posterize", "cutout") else 0.5 for name in NAMES]).double()
    magnitude[3:6] = 7  # pixels and degrees
    black, grey = (apply_policy_op(images, torch.arange(17), magnitude, centre, fill) for fill in (0.0, 0.5))
    assert {name for name, one, other in zip(NAMES, black, grey, strict=True) if not torch.equal(one, other)} == needy
    changed = {name for name, one, image in zip(NAMES, black, images, strict=True) if not torch.equal(one, image)}
    assert changed >= set(NAMES) - {"identity", "autocontrast"}  # noise has its full contrast already


# magnitudes

TABLES = {
    "randaugment": (SETS["torchvision"][0], v2.RandAugment._AUGMENTATION_SPACE, 31),
    "autoaugment": (AUTOAUGMENT, v2.AutoAugment._AUGMENTATION_SPACE, 10),
    "trivialaugment": (SPACES["wide"], v2.TrivialAugmentWide._AUGMENTATION_SPACE, 31),
    "augmix": (AUGMIX, v2.AugMix._AUGMENTATION_SPACE, 10),
}


@pytest.mark.parametrize("policy", TABLES)
@in_turn("size", [*SIZES, (224, 160), (375, 500), (331, 662)])
def test_magnitudes_are_torchvisions(policy, size):
    space, theirs, bins = TABLES[policy]
    assert {name.replace("_", "") for name in space} == {name.lower() for name in theirs}
    strength, sizes = torch.arange(bins)[None].double() / (bins - 1), torch.tensor([size])
    for name, magnitude in space.items():
        table, signed = theirs[SPELLED[name.replace("_", "")]]
        assert magnitude.signed == signed, name
        expected = table(bins, *size)
        expected = torch.zeros(bins) if expected is None else expected.double()
        if name.startswith("translate"):  # cut off where it is applied; in float32 16 pixels fall below themselves
            expected = (expected + 2e-6).trunc()
        codes = torch.full((1, bins), CODES[name])
        for sign in (0.0, 0.9):
            ours = magnitudes_of(space, codes, strength, torch.full((1, bins), sign), sizes)[0]
            turned = -expected if signed and sign < 0.5 else expected
            torch.testing.assert_close(ours, turned.double(), rtol=0, atol=4e-6, msg=f"{name} {ours} {turned}")


@pytest.mark.parametrize("policy", POLICIES)
def test_the_pairs_of_autoaugment_are_torchvisions(policy):
    theirs = v2.AutoAugment(v2.AutoAugmentPolicy(policy))._policies
    lowered = [tuple((name.lower(), chance, bin_ or 0) for name, chance, bin_ in pair) for pair in theirs]
    ours = [tuple((name.replace("_", ""), chance, bin_) for name, chance, bin_ in pair) for pair in POLICIES[policy]]
    assert ours == lowered


def tpu(m, size):
    space, _ = SETS["tpu"]
    codes = torch.tensor([[CODES[name] for name in space]])
    drawn = magnitudes_of(space, codes, torch.tensor(m / 30), torch.ones(1, len(space)), torch.tensor([size]))[0]
    return {name: value for name, value in zip(space, drawn.tolist(), strict=True) if value}


def test_magnitudes_of_the_tpu_list_worked_by_hand():
    factors = dict.fromkeys(("color", "contrast", "brightness", "sharpness"), 0.1 + 1.8 * 0.3 - 1)
    shears = {"shear_x": 0.09, "shear_y": 0.09, "rotate": 9}
    levels = {"posterize": 1, "solarize": 76 / 255, "solarize_add": 33 / 255}
    assert tpu(9, (224, 224)) == pytest.approx(
        {**factors, **shears, **levels, "cutout": 12, "translate_x": 30, "translate_y": 30}
    )
    # 32 of 224: a translation of 4.3 pixels, a cutout of 1.7; oblong: by the width, the height, the shorter side
    assert tpu(9, (32, 32)) == pytest.approx(
        {**factors, **shears, **levels, "cutout": 2, "translate_x": 4, "translate_y": 4}
    )
    full = tpu(30, (112, 448))
    assert [full[name] for name in ("translate_x", "translate_y", "cutout", "posterize")] == [200, 50, 20, 4]
    assert full["solarize"] * 255 == pytest.approx(256)
    assert full["solarize_add"] * 255 == pytest.approx(110)
    assert full["color"] == pytest.approx(0.9)
    assert len(SETS["tpu"][0]) == 16
    assert set(NAMES) - set(SETS["tpu"][0]) == {"identity"}


def test_the_standard_space_of_trivialaugment_worked_by_hand():
    space = SPACES["standard"]
    codes = torch.tensor([[CODES[name] for name in space]])
    expected = {
        0: {"posterize": 8, "solarize": 256 / 255, **dict.fromkeys(ENHANCERS, -0.9)},
        15: {"shear_x": 0.15, "shear_y": 0.15, "translate_x": 5, "translate_y": 10, "rotate": 15, "posterize": 6,
             "solarize": 128 / 255},
        30: {"shear_x": 0.3, "shear_y": 0.3, "translate_x": 10, "translate_y": 20, "rotate": 30, "posterize": 4,
             **dict.fromkeys(ENHANCERS, 0.9)},
    }  # fmt: skip
    for bin_, values in expected.items():
        strength, sizes = torch.tensor(bin_ / 30).double(), torch.tensor([[64, 32]])
        drawn = magnitudes_of(space, codes, strength, torch.ones(1, 14), sizes)
        found = {name: value for name, value in zip(space, drawn[0].tolist(), strict=True) if abs(value) > 1e-9}
        assert found == pytest.approx(values), bin_


# pixels


@SIZE
@KIND
@pytest.mark.parametrize("name", NAMES)
@in_turn("interpolation, level", [("nearest", 0), ("nearest", 128), ("bilinear", 0)])
def test_every_op_is_torchvisions(size, kind, name, interpolation, level):
    values = {0.0} if name in ("identity", "invert") else set()
    for space, bins in ((SETS["torchvision"][0], 30), (SETS["tpu"][0], 30), (SPACES["wide"], 30), (AUGMIX, 9)):
        if name in space:
            strength = (torch.tensor([[0, 1, 3, 5, 8, 9]]).double() / 9 * bins).round() / bins
            codes = torch.full((1, 6), CODES[name])
            for sign in (torch.zeros(1, 6), torch.ones(1, 6)):
                values |= set(magnitudes_of(space, codes, strength, sign, torch.tensor([size]))[0].tolist())
    values = sorted(value for value in values if not (name == "solarize" and value > 1))  # which torchvision refuses
    image = photos(kind, size, 1)[0]
    images, codes = image.expand(len(values), -1, -1, -1), torch.full((len(values),), CODES[name])
    centre = draw(OPS["uniformaugment"](1), size, len(values))["centre"][:, 0]
    kept = image.clone()
    ours = apply_policy_op(images, codes, torch.tensor(values).double(), centre, level / 255, interpolation)
    assert torch.equal(image, kept)
    pairs = zip(values, centre.tolist(), strict=True)
    made = torch.stack([theirs_of(image, name, value, interpolation, level, at) for value, at in pairs])
    apart = (ours.int() - made.int()).abs()
    blends = ("brightness", "color", "contrast", "sharpness")  # cut off to whole levels: a tie may fall to the next
    mixes = name in blends or (interpolation == "bilinear" and POLICY_OPS[name].matrix is not None)
    # torchvision takes a shear's slope through degrees: a place right between two pixels may fall to either
    assert (apart > (1 if mixes else 0)).double().mean() <= (0.001 if name.startswith("shear") else 0)
    assert (apart > 0).double().mean() <= 0.03


def test_solarize_takes_every_level():
    image = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(257, 3, 16, 16)
    levels = torch.arange(257)
    ours = apply_policy_op(image, torch.full((257,), CODES["solarize"]), levels.double() / 255)
    expected = torch.where(image >= levels.view(-1, 1, 1, 1), 255 - image, image)
    assert torch.equal(ours, expected)


@CASES
@SIZE
@KIND
def test_policies_are_torchvisions_kernels_in_turn(name, arguments, size, kind):
    op, images = OPS[name](**arguments), photos(kind, size, 120)
    params = draw(op, size, 120)
    applied = params.get("applied", torch.ones_like(params["op"], dtype=torch.bool))
    theirs = [
        theirs_in_turn(
            images[i],
            params["op"][i],
            params["magnitude"][i],
            applied[i],
            params["centre"][i] if "centre" in params else None,
            op.interpolation,
            fill_of(op),
        )
        for i in range(120)
    ]
    assert_levels(op.render(images, params), torch.stack(theirs))


@SIZE
@KIND
@pytest.mark.parametrize(
    "arguments", [{}, {"severity": 10, "alpha": 0.3}, {"width": 1, "depth": 4, "interpolation": "nearest"}], ids=str
)
def test_augmix_mixes_torchvisions_chains(size, kind, arguments):
    op, images = OPS["augmix"](**arguments), photos(kind, size, 30)
    params = draw(op, size, 30)
    theirs = []
    for i in range(30):
        blend, mixed = params["blend"][i].item(), (1 - params["blend"][i].item()) * images[i].double()
        for chain in range(op.width):
            depth = params["depth"][i, chain].item()
            codes, magnitudes = (params[key][i, chain, :depth] for key in ("op", "magnitude"))
            assert not params["op"][i, chain, depth:].any()
            made = theirs_in_turn(images[i], codes, magnitudes, [True] * depth, None, op.interpolation, 0)
            mixed = mixed + blend * params["weights"][i, chain].item() * made
        theirs.append(mixed.to(torch.uint8))
    ours = op.render(images, params)
    assert_levels(ours, torch.stack(theirs))
    untouched = {**params, "blend": torch.zeros(30).double()}
    assert torch.equal(op.render(images, untouched), images)


@CASES
def test_ops_are_applied_in_turn_and_only_where_the_coin_says(name, arguments):
    op, images = OPS[name](**arguments), photos("smooth", (33, 47), 60)
    params = draw(op, (33, 47), 60)
    expected = images
    for turn in range(params["op"].shape[1]):
        one = {key: values[:, turn : turn + 1] if key != "policy" else values for key, values in params.items()}
        expected = op.render(expected, one)
    assert torch.equal(op.render(images, params), expected)
    if "applied" in params:
        assert torch.equal(op.render(images, {**params, "applied": torch.zeros_like(params["applied"])}), images)
        everywhere = op.render(images, {**params, "applied": torch.ones_like(params["applied"])})
        as_is = params["applied"].all(dim=1)
        assert torch.equal(everywhere[as_is], op.render(images, params)[as_is])


def test_whoever_drew_it_an_op_is_the_same():
    """Codes and magnitudes are all that the pixels depend on."""
    images = photos("smooth", (33, 47), 40)
    drawn = [(OPS[name](**arguments), draw(OPS[name](**arguments), (33, 47), 40)) for name, arguments in POLICY_CASES]
    for op, params in drawn:
        codes = torch.where(params["applied"], params["op"], 0) if "applied" in params else params["op"]
        alone = apply_policy_ops(
            images, codes, params["magnitude"], params.get("centre"), fill_of(op) / 255, op.interpolation
        )
        assert torch.equal(op.render(images, params), alone)


GRAPHS = [*POLICY_CASES[1:10:3], ("uniformaugment", {"n": 2}), ("augmix", {"width": 2, "depth": 2})]


@pytest.mark.parametrize(("name", "arguments"), GRAPHS, ids=str)
def test_policies_are_one_graph_with_the_same_pixels(name, arguments):
    """Compiled, all rows are computed by all ops: no break in the graph, and not a bit of difference."""
    op, images = OPS[name](**arguments), photos("smooth", (20, 24), 24)
    params = draw(op, (20, 24), 24)
    torch.compiler.reset()
    compiled = torch.compile(op.render, backend="eager", fullgraph=True)
    for kind in (images, as_float(images)):
        assert torch.equal(compiled(kind, params), op.render(kind, params))


def test_images_that_are_not_rgb_are_refused():
    for name, arguments in (*POLICY_CASES, ("augmix", {})):
        op = OPS[name](**arguments)
        with pytest.raises(ValueError, match="needs RGB images with 3 channels, got 4"):
            op.render(torch.zeros(2, 4, 8, 8, dtype=torch.uint8), draw(op, (8, 8), 2))


# draws


def assert_uniform(values, count):
    """Whole numbers [MANY] are uniform over 0…count - 1."""
    observed = torch.bincount(values.flatten(), minlength=count)
    assert len(observed) == count
    assert count == 1 or stats.chisquare(observed.numpy()).pvalue > SURE


@pytest.mark.parametrize(
    ("name", "arguments", "space"),
    [
        ("randaugment", {}, SETS["torchvision"][0]),
        ("randaugment", {"ops": "tpu"}, SETS["tpu"][0]),
        ("trivialaugment", {}, SPACES["wide"]),
        ("trivialaugment", {"space": "standard"}, SPACES["standard"]),
        ("uniformaugment", {}, UNIFORM),
        ("augmix", {"depth": 1}, AUGMIX),
        ("augmix", {"depth": 1, "all_ops": False}, {name: AUGMIX[name] for name in AUGMIX if name not in ENHANCERS}),
    ],
)
def test_ops_are_drawn_uniformly_and_turns_are_independent(name, arguments, space):
    codes = draw(OPS[name](**arguments), (32, 32), MANY)["op"].flatten(1)[:, :2]
    place = torch.full((len(NAMES),), -1)
    place[[CODES[name] for name in space]] = torch.arange(len(space))
    places = place[codes]
    assert (places >= 0).all()
    base = len(space) ** torch.arange(places.shape[1])
    assert_uniform((places * base).sum(dim=1), len(space) ** places.shape[1])


@pytest.mark.parametrize("m", [0, 9, 30])
@pytest.mark.parametrize("ops", SETS)
def test_half_of_the_signed_magnitudes_are_negative(m, ops):
    params = draw(OPS["randaugment"](1, m, ops), (64, 96), MANY)
    for name, magnitude in SETS[ops][0].items():
        drawn = params["magnitude"][params["op"] == CODES[name]]
        strength = torch.tensor([[m / 30]], dtype=torch.float64)
        size = magnitude.of(strength, torch.tensor([[[64.0, 96.0]]], dtype=torch.float64)).item()
        assert set(drawn.tolist()) == ({-size, size} if magnitude.signed else {size}), name
        if magnitude.signed and size:
            assert stats.binomtest(int((drawn < 0).sum()), len(drawn), 0.5).pvalue > SURE


@pytest.mark.parametrize("policy", POLICIES)
def test_pairs_of_autoaugment_are_drawn_uniformly_and_applied_by_their_probabilities(policy):
    params = draw(OPS["autoaugment"](policy), (32, 32), MANY)
    assert_uniform(params["policy"], 25)
    for number, pair in enumerate(POLICIES[policy]):
        rows = params["policy"] == number
        both = params["applied"][rows]
        for turn, (name, chance, _) in enumerate(pair):
            assert (params["op"][rows, turn] == CODES[name]).all()
            count = int(both[:, turn].sum())
            assert stats.binomtest(count, len(both), chance).pvalue > SURE
            assert chance not in (0, 1) or count == chance * len(both)
            magnitudes = params["magnitude"][rows, turn]
            assert len(set(magnitudes.abs().tolist())) == 1
            if AUTOAUGMENT[name].signed and magnitudes.any():
                assert stats.binomtest(int((magnitudes < 0).sum()), len(magnitudes), 0.5).pvalue > SURE
        joint = int(both.all(dim=1).sum())
        assert stats.binomtest(joint, len(both), pair[0][1] * pair[1][1]).pvalue > SURE


@pytest.mark.parametrize("space", SPACES)
def test_bins_of_trivialaugment_are_drawn_uniformly(space):
    params = draw(OPS["trivialaugment"](space), (224, 224), 4 * MANY)
    for name, magnitude in SPACES[space].items():
        drawn = params["magnitude"][params["op"] == CODES[name]]
        strength = torch.arange(31)[None].double() / 30
        table = magnitude.of(strength, torch.tensor([[[224.0, 224.0]]]).double())[0]
        values, share = table.unique(return_counts=True)  # of posterize several bins are alike
        place = torch.searchsorted(values, drawn.abs() if magnitude.signed else drawn)
        assert torch.equal(values[place], drawn.abs() if magnitude.signed else drawn)
        if len(values) > 1:
            observed = torch.bincount(place, minlength=len(values)).numpy()
            assert stats.chisquare(observed, share.numpy() / 31 * len(drawn)).pvalue > SURE


def test_uniformaugment_applies_one_half_with_uniform_magnitudes():
    params = draw(OPS["uniformaugment"](2), (200, 300), MANY)
    both = params["applied"].long() @ torch.tensor([2, 1])
    assert_uniform(both, 4)
    assert_uniform((params["centre"][:, 1] * torch.tensor([20.0, 20.0])).long() @ torch.tensor([20, 1]), 400)
    ranges = {
        "shear_x": (-0.3, 0.3), "shear_y": (-0.3, 0.3), "rotate": (-30, 30), "solarize": (0, 256 / 255),
        **dict.fromkeys(ENHANCERS, (-0.9, 0.9)),
    }  # fmt: skip
    whole = {"translate_x": (-135, 135), "translate_y": (-90, 90), "posterize": (4, 7), "cutout": (0, 60)}
    for name in UNIFORM:
        drawn = params["magnitude"][params["op"] == CODES[name]].numpy()
        if name in ranges:
            low, high = ranges[name]
            assert stats.kstest(drawn, "uniform", (low, high - low)).pvalue > SURE, name
        elif name in whole:
            low, high = whole[name]
            assert low <= drawn.min()
            assert drawn.max() <= high
            assert np.array_equal(drawn, drawn.round())
    bits = params["magnitude"][params["op"] == CODES["posterize"]].long() - 4
    assert_uniform(bits, 4)
    moved = params["magnitude"][params["op"] == CODES["translate_x"]].numpy()
    inner = np.abs(moved[moved != 0]) - 1  # 1…134 alike; both signs of what is cut off to 0 fall together
    assert_uniform(torch.from_numpy(inner).long(), 134)
    assert stats.binomtest(int((moved < 0).sum()), len(moved[moved != 0]), 0.5).pvalue > SURE


@pytest.mark.parametrize("severity", [1, 3, 10])
def test_augmix_draws_depths_and_bins_uniformly(severity):
    params = draw(OPS["augmix"](severity), (30, 30), MANY)
    assert_uniform((params["depth"] - 1) @ torch.tensor([9, 3, 1]), 27)
    used = torch.arange(3) < params["depth"][..., None]
    assert not params["op"][~used].any()
    assert not params["magnitude"][~used].any()
    assert params["op"][used].all()
    degrees = params["magnitude"][params["op"] == CODES["rotate"]]
    assert_uniform((degrees.abs() / 30 * 9).round().long(), severity)


def drawn_from_beta(values, a, b):
    """How many lie under `top`, and how these are distributed: next to 1 there are fewer doubles than draws."""
    top, law = 1 - 1e-9, stats.beta(a, b)
    under = values[values < top]
    many = stats.binomtest(len(under), len(values), law.cdf(top)).pvalue > SURE
    return many and stats.kstest(under, lambda x: law.cdf(x) / law.cdf(top)).pvalue > SURE


@pytest.mark.parametrize("alpha", [0.05, 0.3, 1.0, 4.0])
def test_augmix_draws_weights_from_dirichlet_and_the_blend_from_beta(alpha):
    params = draw(OPS["augmix"](alpha=alpha), (30, 30), MANY)
    weights, blend = params["weights"].numpy(), params["blend"].numpy()
    assert np.abs(weights.sum(axis=1) - 1).max() < 1e-12
    assert drawn_from_beta(blend, alpha, alpha)
    for column in weights.T:
        assert drawn_from_beta(column, alpha, 2 * alpha)
    # of a Dirichlet distribution alone: how two share what a third has left does not depend on how much that is
    kept = weights[:, 0] < 0.9
    inside = weights[kept, 1] / (weights[kept, 1] + weights[kept, 2])
    assert drawn_from_beta(inside, alpha, alpha)
    assert abs(np.corrcoef(inside, weights[kept, 0])[0, 1]) < 4.5 / math.sqrt(kept.sum())
    assert abs(np.corrcoef(blend, weights[:, 0])[0, 1]) < 4.5 / math.sqrt(MANY)


@pytest.mark.parametrize("alpha", [1e-6, 1e-3, 1e4])
def test_weights_of_extreme_alphas_are_finite(alpha):
    weights = dirichlet(Draws(0, 0, range(1000), "a"), "weights", 3, alpha)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(1000).double())
    assert (weights >= 0).all()


def test_summed_magnitudes_are_a_loop():
    params = draw(OPS["uniformaugment"](4), (32, 32), 50)
    expected = torch.zeros(50, 17).double()
    for i in range(50):
        for code, magnitude in zip(params["op"][i].tolist(), params["magnitude"][i].tolist(), strict=True):
            expected[i, code] += magnitude
    torch.testing.assert_close(summed(params["op"], params["magnitude"]), expected, rtol=0, atol=1e-12)


# names that do not exist


@pytest.mark.parametrize(
    ("make", "message"),
    [
        ("autoaugment('cifar')", "unknown policy 'cifar'; did you mean 'cifar10'? policies: cifar10, imagenet, svhn"),
        ("autoaugment(10)", "unknown policy '10'; .*policies: cifar10, imagenet, svhn"),
        ("randaugment(ops='tpus')", "unknown op set 'tpus'; did you mean 'tpu'? op sets: dssl, torchvision, tpu"),
        ("trivialaugment('wider')", "unknown space 'wider'; did you mean 'wide'? spaces: standard, wide"),
    ],
)
def test_a_name_that_does_not_exist_gets_one_line_with_all_that_do(make, message):
    pattern = message.replace("?", r"\?")
    with pytest.raises(RecipeError, match=f"^views.a.make: .*{pattern}$"):
        plan_views({"a": ViewSpec(**{"from": "image", "make": make})})


# bicubic resampling, and ops as DSSL's code carries them out


@SIZE
@KIND
@pytest.mark.parametrize("name", ["shear_x", "shear_y", "translate_x", "translate_y", "rotate"])
def test_bicubic_resampling_is_what_torchvision_does_to_pillows_images(size, kind, name):
    """As in Tied-Augment's runs, whose RandAugment sees Pillow's images."""
    image = photos(kind, size, 1)[0]
    values = [-5.0, 0.0, 3.0, 7.0] if name.startswith("translate") else [-0.3, -0.11, 0.0, 0.25]
    values = [90 * value for value in values] if name == "rotate" else values
    codes = torch.full((len(values),), CODES[name])
    images = image.expand(len(values), -1, -1, -1)
    ours = apply_policy_op(images, codes, torch.tensor(values).double(), None, 0.5, "bicubic")
    picture, off = v2.functional.to_pil_image(image), 0.0
    for value, made in zip(values, ours, strict=True):
        theirs = v2.RandAugment()._apply_image_or_video_transform(
            picture, SPELLED[name.replace("_", "")], value, InterpolationMode.BICUBIC, {Image.Image: [128] * 3}
        )
        off += float((made.int() - v2.functional.pil_to_tensor(theirs).int()).abs().gt(1).double().mean())
    assert off / len(values) <= 0.001  # places are told apart by their last digits


def test_a_cubic_goes_through_its_neighbours_and_beyond_the_levels_is_cut():
    """A step from 0 to 255, half a pixel to the right: Keys' weights with a = -1 are -1/8, 5/8, 5/8, -1/8."""
    image = torch.zeros(1, 3, 4, 8, dtype=torch.uint8)
    image[..., 4:] = 255
    half = torch.tensor([[[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]]], dtype=torch.float64)
    assert warp_cubic(image, half, 9)[0, 0, 1].tolist() == [0, 0, 0, 127, 255, 255, 255, 9]
    whole = torch.tensor([[[1.0, 0.0, 2.0], [0.0, 1.0, -1.0]]], dtype=torch.float64)
    assert warp_cubic(image, whole, 9)[0, 0].tolist() == [[9] * 8] + [[0, 0, 255, 255, 255, 255, 9, 9]] * 3


def test_dssls_own_ops_worked_by_hand():
    op, tpu_op = OPS["randaugment"](1, 30, ops="dssl"), OPS["randaugment"](1, 30, ops="tpu")
    image = torch.tensor([0, 10, 100, 127, 128, 200, 250, 255], dtype=torch.uint8).view(1, 1, 1, 8).repeat(1, 3, 8, 1)

    def see(op, name, magnitude):
        params = {"op": torch.tensor([[CODES[name]]]), "magnitude": torch.tensor([[magnitude]], dtype=torch.float64),
                  "centre": torch.tensor([[[0.5, 0.5]]], dtype=torch.float64)}  # fmt: skip
        made = op.render(image, params)
        assert torch.equal(render([(op, params)], image), made)
        return made[0]

    # + 60 everywhere, at most 255, then 255 - level from 128 on
    assert see(op, "solarize_add", 60 / 255)[0, 0].tolist() == [60, 70, 95, 68, 67, 0, 0, 0]
    assert see(tpu_op, "solarize_add", 60 / 255)[0, 0].tolist() == [60, 70, 160, 187, 128, 200, 250, 255]
    assert see(op, "translate_x", 3)[:, 0, :3].tolist() == [[0, 0, 0]] * 3
    assert see(tpu_op, "translate_x", 3)[:, 0, :3].tolist() == [[128, 128, 128]] * 3
    assert see(op, "cutout", 4)[:, 4, 4].tolist() == [125, 123, 114]
    assert see(tpu_op, "cutout", 4)[:, 4, 4].tolist() == [128, 128, 128]
    filled = OPS["randaugment"](1, 30, ops="dssl", fill=0.2)
    assert see(filled, "cutout", 4)[:, 4, 4].tolist() == see(filled, "translate_x", 3)[:, 0, 0].tolist() == [51] * 3
    assert SETS["dssl"][0] is SETS["tpu"][0]


def test_only_policies_resample_bicubically():
    with pytest.raises(ValueError, match=r"^interpolation must be 'nearest', 'bilinear' or 'bicubic', got 'cubic'$"):
        OPS["randaugment"](interpolation="cubic")
    with pytest.raises(ValueError, match=r"^interpolation must be 'nearest' or 'bilinear', got 'bicubic'$"):
        OPS["rotate"](interpolation="bicubic")
