"""MixUp and CutMix: pixels, boxes, shares and targets against NumPy; the papers' distributions; draws of a batch."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from manyview.errors import DataError, RecipeError
from manyview.show.plan import describe
from manyview.views.draws import Draws
from manyview.views.ops import OPS
from manyview.views.ops.mix import beta, mix_rows, mix_target, on_rows
from manyview.views.ops.op import as_float
from manyview.views.plan import ViewSpec, plan_views
from manyview.views.view import draw_views, member_view

SIZE = (11, 14)
CASES = [
    (name, {**arguments, **extra})
    for name, key in (("mixup", "alpha"), ("cutmix", "beta"))
    for arguments in ({}, {key: 0.7, "p": 0.5})
    for extra in ({}, {"per": "image"}, {"partner": "reversed", "per": "image"})
]
EVERY = pytest.mark.parametrize(("name", "arguments"), CASES, ids=str)
NAMES = pytest.mark.parametrize("name", ["mixup", "cutmix"])
DTYPES = pytest.mark.parametrize("dtype", [torch.uint8, torch.float32], ids=str)
MANY, SURE = 100_000, 1e-4


def photos(count, size=SIZE, dtype=torch.uint8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, *size), generator=generator, dtype=torch.uint8)
    return images if dtype == torch.uint8 else as_float(images)


def draw(op, index=range(7), size=SIZE, seed=0, epoch=0, view="a"):
    return op.sample(Draws(seed, epoch, list(index), view, "op"), torch.tensor([size]).expand(len(index), 2))


def same_params(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def boxes(params, size):
    """Pixel boxes (top, bottom, left, right), one an image, checked to lie on pixels inside the frame."""
    pixels = params["box"].numpy() * np.array([*size, *size])
    assert np.abs(pixels - pixels.round()).max() < 1e-9
    found = [(int(t), int(t + h), int(l), int(l + w)) for t, l, h, w in pixels.round()]  # noqa: E741
    assert all(0 <= t <= b <= size[0] and 0 <= l <= r <= size[1] for t, b, l, r in found)  # noqa: E741
    return found


# --------------------------------------------------------------------------------------------------------------- pixels


@EVERY
@DTYPES
@pytest.mark.parametrize("seed", range(3))
def test_pixels_are_those_of_a_slow_reference(name, arguments, dtype, seed):
    op, images = OPS[name](**arguments), photos(7, dtype=dtype, seed=seed)
    params, kept = draw(op, seed=seed), images.clone()
    out = op.render(images, params)
    assert torch.equal(images, kept)
    x = as_float(images).double().numpy()
    expected = x.copy()
    for i in range(7):
        j, lam = int(params["partner"][i]), float(params["lam"][i])
        if not params["applied"][i]:
            assert lam == 1
        elif name == "mixup":
            expected[i] = lam * x[i] + (1 - lam) * x[j]
        else:
            top, bottom, left, right = boxes(params, SIZE)[i]
            hidden = 0
            for row in range(top, bottom):
                for column in range(left, right):
                    expected[i, :, row, column] = x[j, :, row, column]
                    hidden += 1
            assert lam == pytest.approx(1 - hidden / (SIZE[0] * SIZE[1]), abs=1e-12)
    if name == "cutmix":
        assert out.dtype == dtype
        assert torch.equal(as_float(out), torch.from_numpy(expected).float())
    else:
        assert out.dtype == torch.float32
        torch.testing.assert_close(out, torch.from_numpy(expected).float(), rtol=0, atol=2e-7)
    assert 0 <= out.min() <= out.max() <= (1 if out.is_floating_point() else 255)


@EVERY
def test_the_soft_target_is_that_of_a_slow_reference(name, arguments):
    params, labels = draw(OPS[name](**arguments)), torch.tensor([3, 0, 1, 1, 2, 0, 3])
    expected = np.zeros((7, 5))
    for i in range(7):
        lam = float(params["lam"][i]) if params["applied"][i] else 1.0
        expected[i, labels[i]] += lam
        expected[i, labels[params["partner"][i]]] += 1 - lam
    soft = mix_target(labels, params, 5)
    assert soft.dtype == torch.float32
    np.testing.assert_allclose(soft.numpy(), expected, atol=1e-7)
    np.testing.assert_allclose(mix_target(torch.eye(5)[labels], params, None).numpy(), expected, atol=1e-7)
    assert mix_target(None, params, 5) is None


def test_without_the_coin_nothing_is_mixed():
    images, labels = photos(4), torch.arange(4)
    for name in ("mixup", "cutmix"):
        op = OPS[name](p=0)
        params = draw(op, range(4))
        assert torch.equal(as_float(op.render(images, params)), as_float(images))
        assert torch.equal(mix_target(labels, params, 4), torch.eye(4))
        # the coin decides image by image, whatever else the parameters hold
        always = draw(OPS[name](p=1), range(4))
        some = {**always, "applied": torch.tensor([True, False, True, False])}
        out, full = op.render(images, some), op.render(images, always)
        assert torch.equal(out[1::2], as_float(images)[1::2] if name == "mixup" else images[1::2])
        assert torch.equal(out[0::2], full[0::2])
        assert torch.equal(mix_target(labels, some, 4)[1::2], torch.eye(4)[1::2])


@NAMES
def test_differences(name):
    op = OPS[name](per="image")
    a, b = draw(op, range(50)), draw(op, range(50), view="b")
    assert torch.equal(op.difference(a, b), (a["lam"] - b["lam"])[:, None])
    assert torch.equal(op.difference(a, b), -op.difference(b, a))
    unmixed = {**b, "applied": torch.zeros(50, dtype=torch.bool)}
    assert torch.equal(op.difference(a, unmixed), a["lam"][:, None] - 1)


@NAMES
def test_rendering_compiles_in_one_graph(name):
    op, images = OPS[name](per="image"), photos(7)
    params = draw(op)
    compiled = torch.compile(op.render, backend="eager", fullgraph=True)
    assert torch.equal(compiled(images, params), op.render(images, params))


# -------------------------------------------------------------------------------------------------------- distributions


@pytest.mark.parametrize("concentration", [0.2, 1.0, 8.0])
def test_lam_is_a_beta_draw(concentration):
    for op in (OPS["mixup"](concentration, per="image"), OPS["mixup"](concentration)):
        if op.per == "image":
            lam = draw(op, range(MANY))["lam"]
        else:
            lam = torch.stack([draw(op, [i, i + 1])["lam"] for i in range(5_000)])
            assert torch.equal(lam[:, 0], lam[:, 1])  # one a batch
            lam = lam[:, 0]
        assert stats.kstest(lam.numpy(), "beta", (concentration, concentration)).pvalue > SURE


def test_quantiles_of_beta():
    uniform = Draws(0, 0, range(1000)).uniform("u", high=0.9)[:, 0]  # above, floats near 1 are too far apart
    for concentration in (0.2, 1, 3):
        back = stats.beta.cdf(beta(uniform, concentration).numpy(), concentration, concentration)
        np.testing.assert_allclose(back, uniform.numpy(), atol=1e-9)


@pytest.mark.parametrize("concentration", [1.0, 0.5])
def test_boxes_are_distributed_as_in_the_paper(concentration):
    """Sides sqrt(1 - l) of the frame, centres anywhere, cut at the edges: simulated with NumPy's own generator."""
    height, width = size = (32, 48)
    params = draw(OPS["cutmix"](concentration, per="image"), range(MANY), size)
    theirs, places = np.random.default_rng(0), []
    for _ in range(MANY):
        ratio = math.sqrt(1 - theirs.beta(concentration, concentration))
        half_h, half_w = int(height * ratio) // 2, int(width * ratio) // 2
        y, x = theirs.integers(height), theirs.integers(width)
        places.append((max(y - half_h, 0), min(y + half_h, height), max(x - half_w, 0), min(x + half_w, width)))
    ours, places = np.array(boxes(params, size)), np.array(places)
    for at in range(4):
        table = np.stack([np.bincount(found[:, at], minlength=width + 1) for found in (ours, places)])
        table = table[:, table.sum(axis=0) >= 20]
        assert stats.chi2_contingency(table).pvalue > SURE
    areas = [(found[:, 1] - found[:, 0]) * (found[:, 3] - found[:, 2]) for found in (ours, places)]
    assert stats.ks_2samp(*areas).pvalue > SURE
    np.testing.assert_allclose(params["lam"].numpy(), 1 - areas[0] / (height * width), atol=1e-12)


@NAMES
def test_partners_are_random_orders_that_do_not_depend_on_lam(name):
    op = OPS[name]()
    drawn = [draw(op, [7 * i, 7 * i + 1, 3, 2]) for i in range(6_000)]
    orders = torch.stack([params["partner"] for params in drawn])
    assert (orders.sort(dim=1).values == torch.arange(4)).all()
    _, observed = np.unique((orders @ torch.tensor([64, 16, 4, 1])).numpy(), return_counts=True)
    assert len(observed) == 24
    assert stats.chisquare(observed).pvalue > SURE
    lam = torch.stack([params["lam"][0] for params in drawn])
    assert abs(np.corrcoef(lam, orders[:, 0])[0, 1]) < 4.5 / math.sqrt(len(lam))


@NAMES
@pytest.mark.parametrize("p", [0.1, 0.8])
def test_mixed_as_often_as_p_says(name, p):
    applied = draw(OPS[name](p=p, per="image"), range(MANY))["applied"]
    assert stats.binomtest(int(applied.sum()), MANY, p).pvalue > SURE
    batches = torch.stack([draw(OPS[name](p=p), [i, -i + 5_000])["applied"] for i in range(4000)])
    assert torch.equal(batches[:, 0], batches[:, 1])
    assert stats.binomtest(int(batches[:, 0].sum()), 4000, p).pvalue > SURE


def test_the_reversed_batch():
    for name in ("mixup", "cutmix"):
        assert draw(OPS[name](partner="reversed"))["partner"].tolist() == [6, 5, 4, 3, 2, 1, 0]


# --------------------------------------------------------------------------------------------------- draws of a batch


@EVERY
def test_a_batch_draws_the_same_again_and_otherwise_if_anything_changes(name, arguments):
    op = OPS[name](**{**arguments, "p": 1.0})
    first = draw(op)
    assert all(value.shape[0] == 7 and value.is_contiguous() for value in first.values())
    assert [first[key].dtype for key in ("partner", "lam", "applied")] == [torch.int64, torch.float64, torch.bool]
    assert same_params(first, draw(OPS[name](**{**arguments, "p": 1.0})))
    others = [
        draw(op, seed=1),
        draw(op, epoch=1),
        draw(op, view="b"),
        draw(op, [0, 1, 2, 3, 4, 6, 5]),
        draw(op, range(8)),
    ]
    for other in others:
        assert len(other["lam"]) != 7 or not same_params(first, other)
    if arguments.get("per") == "image":
        # lam belongs to the image, in any batch
        assert torch.equal(draw(op, [3, 99, 1])["lam"][[0, 2]], first["lam"][[3, 1]])


@NAMES
def test_an_empty_batch_stays_empty(name):
    op = OPS[name]()
    params = op.sample(Draws(0, 0, [], "a", "op"), torch.zeros(0, 2, dtype=torch.long))
    assert all(len(value) == 0 for value in params.values())
    assert op.render(photos(1)[:0], params).shape == (0, 3, *SIZE)
    assert mix_target(torch.zeros(0, dtype=torch.long), params, 3).shape == (0, 3)


# ---------------------------------------------------------------------------------------------------------------- views


def plan(**views):
    return plan_views({name: ViewSpec(**spec) for name, spec in views.items()})


def see(planned, count=6, labels=True, epoch=2, seed=5, classes=4):
    target = torch.arange(count) % 4 if labels else None
    return draw_views(planned, photos(count, (12, 12)), target, range(count), epoch, seed, classes)


def soft_by_hand(target, params):
    """numpy: targets [rows, classes] mixed row by row."""
    out = np.zeros(target.shape)
    for i in range(len(target)):
        lam, j = float(params["lam"][i]), int(params["partner"][i])
        out[i] = lam * target[i] + (1 - lam) * target[j]
    return out


MIXED = {"from": "image", "make": "flip(0.5) | mixup(1.0)"}


def test_each_view_has_its_own_draws_and_target_unless_they_are_shared():
    planned = plan(
        a=MIXED, b={"like": "a"}, c={"like": "a", "same": ("mixup",)}, plain={"from": "image", "make": "flip"}
    )
    views = see(planned)
    a, b, c = (views[name].params["mixup"] for name in "abc")
    assert (a["lam"] != b["lam"]).all()
    assert not torch.equal(a["partner"], b["partner"])
    assert same_params(a, c)
    assert not torch.equal(views["a"].params["flip"]["applied"], views["c"].params["flip"]["applied"])
    for name in "abc":
        expected = soft_by_hand(np.eye(4)[np.arange(6) % 4], views[name].params["mixup"])
        np.testing.assert_allclose(views[name].target.numpy(), expected, atol=1e-7)
        assert views[name].mixed
    assert views["plain"].target.tolist() == [0, 1, 2, 3, 0, 1]
    assert not views["plain"].mixed


def test_mixing_twice_mixes_what_is_soft_already():
    views = see(plan(a={"from": "image", "make": "cutmix(1.0) | mixup(1.0) | mixup(0.5)"}))
    target = np.eye(4)[np.arange(6) % 4]
    for op in ("cutmix", "mixup", "mixup_again"):
        target = soft_by_hand(target, views["a"].params[op])
    np.testing.assert_allclose(views["a"].target.numpy(), target, atol=1e-6)
    assert not torch.equal(views["a"].params["mixup"]["lam"], views["a"].params["mixup_again"]["lam"])


def test_derived_views_and_orbits_inherit_the_soft_target():
    views = see(plan(a=MIXED, heavy={"from": "a", "make": "vflip(1.0)"}, r={"from": "a", "orbit": "rotation"}))
    assert torch.equal(views["heavy"].target, views["a"].target)
    assert torch.equal(views["heavy"].images, views["a"].images.flip(-2))
    assert torch.equal(views["r"].target, views["a"].target.repeat_interleave(4, dim=0))
    assert views["heavy"].mixed
    assert views["r"].mixed
    assert member_view(views["r"], 2).mixed
    mixing_orbit = see(plan(r={**MIXED, "orbit": "rotation"}))["r"]
    assert torch.equal(member_view(mixing_orbit, 3).target, member_view(mixing_orbit, 0).target)
    assert torch.equal(mixing_orbit.params["mixup"]["partner"][::4], mixing_orbit.params["mixup"]["partner"][1::4])


@pytest.mark.parametrize("op", ["mixup(1.0)", "cutmix(1.0, per='image')"])
def test_members_of_a_family_are_mixed_among_themselves(op):
    name = op.partition("(")[0]
    planned = plan(many={"from": "image", "make": f"flip(0.5) | {op}", "count": 3})
    family, images = see(planned)["many"], photos(6, (12, 12))
    params = family.params[name]
    assert params["partner"].shape == (18,)
    assert set(params["partner"].tolist()) == set(range(6))  # images of the batch, not rows of the family
    for t in range(3):
        member = member_view(family, t)
        drawn = member.params[name]
        flipped = torch.where(member.params["flip"]["applied"].view(-1, 1, 1, 1), images.flip(-1), images)
        assert torch.equal(member.images, OPS[name](1.0).render(flipped, drawn))
        np.testing.assert_allclose(member.target.numpy(), soft_by_hand(np.eye(4)[np.arange(6) % 4], drawn), atol=1e-7)
    assert not torch.equal(params["partner"][0::3], params["partner"][1::3])
    rows = on_rows(params, 3)["partner"]
    assert torch.equal(rows % 3, torch.arange(18) % 3)
    assert torch.equal(rows // 3, params["partner"])


def test_rows_of_features_are_mixed_with_gradients():
    params = draw(OPS["mixup"](1.0, per="image"), range(5))
    rows = torch.randn(5, 8, dtype=torch.double, requires_grad=True)
    np.testing.assert_allclose(mix_rows(rows, params).detach().numpy(), soft_by_hand(rows.detach().numpy(), params))
    assert torch.autograd.gradcheck(lambda x: mix_rows(x, params), rows)


def test_pixels_mix_without_labels_but_labels_cannot_come_later():
    planned = plan(a=MIXED, b={"from": "a", "make": "flip"})
    with_labels, without = see(planned), see(planned, labels=False, classes=None)
    for name in "ab":
        assert torch.equal(with_labels[name].images, without[name].images)
        assert without[name].target is None
        assert without[name].labelled(None) is without[name]
        assert with_labels[name].labelled(torch.zeros(6)) is with_labels[name]
        with pytest.raises(ValueError, match="mixed without labels; pass labels where the views are drawn"):
            without[name].labelled(torch.zeros(6))


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("call", "line"),
    [
        ("mixup(0)", "alpha must be a number above 0, got 0"),
        ("mixup(-0.2)", "alpha must be a number above 0, got -0.2"),
        ("mixup('x')", "alpha must be a number above 0, got 'x'"),
        ("mixup(True)", "alpha must be a number above 0, got True"),
        ("cutmix(0.0)", "beta must be a number above 0, got 0.0"),
        ("mixup(p=1.5)", "p must be a probability in [0, 1], got 1.5"),
        ("mixup(partner='next')", "partner must be 'random' or 'reversed', got 'next'"),
        ("cutmix(per='epoch')", "per must be 'batch' or 'image', got 'epoch'"),
    ],
)
def test_arguments_that_cannot_be_meant(call, line):
    with pytest.raises(RecipeError) as error:
        plan(a={"from": "image", "make": call})
    assert str(error.value).endswith(line)


@NAMES
def test_a_batch_of_one_cannot_be_mixed(name):
    planned = plan(a={"from": "image", "make": name})
    with pytest.raises(
        DataError, match=f"^{name} needs at least two images a batch; raise batch_size, or drop the op$"
    ):
        see(planned, count=1)


@NAMES
def test_images_of_unlike_sizes_are_cropped_first(name):
    unlike = [photos(1, (12, 12))[0], photos(1, (12, 13))[0]]
    with pytest.raises(DataError, match=f"^{name} needs images of one size; crop or resize them first$"):
        draw_views(plan(a={"from": "image", "make": f"{name} | crop(8)"}), unlike, None, [0, 1], 0, 0)
    made = draw_views(plan(a={"from": "image", "make": f"crop(8) | {name}"}), unlike, None, [0, 1], 0, 0)
    assert made["a"].images.shape == (2, 3, 8, 8)


@NAMES
@pytest.mark.parametrize("wrong", [-0.1, 1.5, math.nan])
def test_a_share_outside_0_and_1_is_refused(name, wrong):
    op = OPS[name]()
    params = {**draw(op, range(3)), "lam": torch.tensor([0.5, wrong, 0.5], dtype=torch.float64)}
    with pytest.raises(ValueError, match=r"lam must be in \[0, 1\], got"):
        op.render(photos(3), params)


def test_labels_that_do_not_fit():
    planned = plan(a=MIXED)
    with pytest.raises(DataError, match=r"^label 3 is outside \[0, 3\)$"):
        see(planned, classes=3)
    with pytest.raises(RecipeError, match="mixing labels needs the number of classes: pass classes"):
        see(planned, classes=None)


def test_the_test_view_is_not_mixed():
    with pytest.raises(RecipeError, match="the test view draws nothing"):
        plan(a=MIXED, test={"from": "image", "make": "mixup"})


def test_the_plan_writes_them_as_a_recipe_would():
    assert describe(OPS["mixup"](partner="reversed")) == "mixup(partner='reversed')"
    assert describe(OPS["cutmix"](1.0, 0.5)) == "cutmix(p=0.5)"


@NAMES
@pytest.mark.parametrize("per", ["batch", "image"])
def test_a_shared_coin_is_that_of_all_views_and_nothing_else_is_shared(name, per):
    """AgMax's CIFAR runs: one coin a batch for both views, each with its own partners, lam and box."""
    shared, own = OPS[name](p=0.5, per=per, coin="shared"), OPS[name](p=0.5, per=per)
    batches = [range(start, start + 8) for start in range(200)]
    pairs = [(draw(shared, index), draw(shared, index, view="b")) for index in batches]
    assert all(torch.equal(a["applied"], b["applied"]) for a, b in pairs)
    assert abs(sum(a["applied"].double().mean().item() for a, _ in pairs) / 200 - 0.5) < 0.15
    for key in ("lam", "partner"):
        mixed = [(a, b) for a, b in pairs if a["applied"].any()]
        assert sum(torch.equal(a[key], b[key]) for a, b in mixed) < len(mixed) / 4, key
    alike = [torch.equal(draw(own, index)["applied"], draw(own, index, view="b")["applied"]) for index in batches]
    assert sum(alike) < 150


def test_a_coin_is_own_or_shared():
    with pytest.raises(ValueError, match=r"^coin must be 'own' or 'shared', got 'both'$"):
        OPS["cutmix"](coin="both")
