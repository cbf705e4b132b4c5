"""AugSelf: what is told about two views, the nets that tell it, and what is refused."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from manyview.errors import RecipeError
from manyview.load import parse_recipe
from manyview.relations import Port, Reading
from manyview.relations.augself import KINDS, AugSelf
from manyview.step import Step
from manyview.views.view import View, sample_views
from op_cases import photos
from references import log_softmax

COUNT, DIM, HIDDEN = 240, 5, 7
OPS_OF_A = (
    "crop(24, scale=(0.2, 1)) | posterize(4) | jitter(0.4, (0.5, 2.5), 0.3, 0.1, p=0.8) | grayscale(0.2) | flip(0.5) | "
    "vflip(0.3) | rotate90() | blur((0.1, 2.0), p=0.5) | solarize((0.2, 0.9), p=0.4)"
)
OPS_OF_B = OPS_OF_A.replace("p=0.5", "p=0.9").replace("posterize(4)", "invert(0.1)")
RECIPE = f"""
data: {{source: digits}}
views:
  a: {{from: image, make: "{OPS_OF_A}"}}
  b: {{from: image, make: "{OPS_OF_B}"}}
  c: {{like: a, same: [flip]}}
  t: {{from: image, make: "{OPS_OF_A}", count: 3}}
  u: {{like: t}}
branches:
  net: {{backbone: cresnet20, logits: linear(h)}}
relations:
  - augself(h(a), h(b), crop=1.0)
train: {{epochs: 1, batch_size: 60, optimizer: sgd(lr=0.1)}}
"""
RANGES = [(0.6, 1.4), (0.5, 2.5), (0.7, 1.3), (-0.1, 0.1)]


@pytest.fixture(scope="module")
def drawn():
    """The step, and the views of images of three sizes, as it draws them."""
    step = Step(parse_recipe(RECIPE), 10)
    sizes = [(32, 32), (25, 60), (48, 30)]
    images = [photos(1, sizes[i % 3], seed=i)[0] for i in range(COUNT)]
    return step, step.views(images, index=range(100, 100 + COUNT), epoch=3)


def port(step, name, dim=DIM, **changed):
    view = step.plan[name]
    ops = {planned.name: planned.op for planned in view.ops}
    return Port(f"h({name})", dim, view.members, 10, **{"ops": ops, **changed})


def reading(views, name, seed=0, dim=DIM):
    rows = len(views[name].images)
    value = torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Reading(value, None, views[name].params, views[name].members)


# ------------------------------------------------------------------------------------------------- slow reference


def target_slow(kind, *params):
    """METHODS, row by row: params of all ops of view a and of view b -> a list of lists."""
    a, b = ({op: {name: v.tolist() for name, v in drawn.items()} for op, drawn in each.items()} for each in params)
    rows = []
    for i in range(len(a["flip"]["applied"])):
        if kind == "crop":
            (top_a, left_a, h_a, w_a), (top_b, left_b, h_b, w_b) = (p["crop"]["box"][i] for p in (a, b))
            (y_a, x_a), (y_b, x_b) = (top_a + h_a / 2, left_a + w_a / 2), (top_b + h_b / 2, left_b + w_b / 2)
            if a["flip"]["applied"][i]:
                x_a, x_b = 1 - x_a, 1 - x_b
            if a["vflip"]["applied"][i]:
                y_a, y_b = 1 - y_a, 1 - y_b
            row = [y_a - y_b, x_a - x_b, h_a - h_b, w_a - w_b]
        elif kind == "color":
            strengths = []
            for p in (a, b):
                each = [
                    (factor - neutral) / (high - low)
                    for factor, neutral, (low, high) in zip(
                        p["jitter"]["factors"][i], (1, 1, 1, 0), RANGES, strict=True
                    )
                ]
                strengths.append(each if p["jitter"]["applied"][i] else [0.0] * 4)
            row = [one - other for one, other in zip(*strengths, strict=True)]
        elif kind == "blur":
            one, other = (p["blur"]["sigma"][i] / 2.0 if p["blur"]["applied"][i] else 0.0 for p in (a, b))
            row = [one - other]
        elif kind == "solarize":
            one, other = (p["solarize"]["threshold"][i] if p["solarize"]["applied"][i] else 1.0 for p in (a, b))
            row = [one - other]
        elif kind == "flip":
            row = [1.0 if a["flip"]["applied"][i] == b["flip"]["applied"][i] else 0.0]
        else:
            row = [(a["rotate90"]["k"][i] - b["rotate90"]["k"][i]) % 4]
        rows.append(row)
    return rows


def net_slow(weights, rows):
    """Linear, BatchNorm of the batch, ReLU, twice, and linear. weights: as in the state of a net."""
    for first in (0, 3):
        rows = rows @ weights[f"{first}.weight"].T
        mean = sum(rows) / len(rows)
        variance = sum((rows - mean) ** 2) / len(rows)
        rows = (rows - mean) / np.sqrt(variance + 1e-5)
        rows = np.maximum(rows * weights[f"{first + 1}.weight"] + weights[f"{first + 1}.bias"], 0)
    return rows @ weights["6.weight"].T + weights["6.bias"]


def loss_slow(kind, weights, values, params):
    """values: features [B, D] of each view; params: of each view."""
    pairs = list(itertools.permutations(range(len(values)), 2))
    rows = np.array([[*values[a][i], *values[b][i]] for a, b in pairs for i in range(len(values[a]))])
    targets = [row for a, b in pairs for row in target_slow(kind, params[a], params[b])]
    outputs, total = net_slow(weights, rows), 0.0
    if kind == "rotation":
        total = -sum(row[turns] for row, (turns,) in zip(log_softmax(outputs), targets, strict=True))
    else:
        for output, target in zip(outputs, targets, strict=True):
            for number, wanted in zip(output, target, strict=True):
                if kind == "flip":
                    chance = 1 / (1 + math.exp(-number))
                    total -= wanted * math.log(chance) + (1 - wanted) * math.log(1 - chance)
                else:
                    total += (math.tanh(number) - wanted) ** 2 / len(target)
    return total / len(targets)


def in_numpy(tensors):
    return {name: tensor.detach().numpy().copy() for name, tensor in tensors.items()}


def a_few(params, rows):
    return {op: {name: values[:rows] for name, values in each.items()} for op, each in params.items()}


# ------------------------------------------------------------------------------------------------------- what is told


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pair", ["ab", "ba", "ac", "tu"])
def test_targets_are_the_papers(drawn, kind, pair):
    step, views = drawn
    one, other = pair
    module = AugSelf(port(step, one), port(step, other), **{kind: 1.0}, hidden=HIDDEN).double()
    output, target = module.predict(reading(views, one), reading(views, other))[kind]
    forth = target_slow(kind, views[one].params, views[other].params)
    back = target_slow(kind, views[other].params, views[one].params)
    assert len(forth) == len(views[one].images) >= COUNT
    expected = torch.tensor(forth + back, dtype=target.dtype)
    torch.testing.assert_close(target, expected, rtol=0, atol=1e-12)
    assert output.shape == (len(target), KINDS[kind].columns)
    assert kind == "rotation" or float(target.abs().max()) <= 1
    if pair != "ac" or kind != "flip":  # whose flips are the same
        assert (target.amax(dim=0) > target.amin(dim=0)).all()


def test_flips_of_a_give_the_frame(drawn):
    """A fair part of rows is flipped in a, in b, in both: else the frame would not have been looked at."""
    _, views = drawn
    for name in ("flip", "vflip"):
        a, b = (views[view].params[name]["applied"] for view in "ab")
        assert all(int((a.eq(x) & b.eq(y)).sum()) >= 10 for x in (True, False) for y in (True, False))


def test_a_pad_crop_is_told_like_a_crop():
    recipe = RECIPE.replace("crop(24, scale=(0.2, 1))", "pad_crop(padding=3)")
    step = Step(parse_recipe(recipe), 10)
    views = step.views(photos(50, (20, 20)), index=range(50), epoch=0)
    module = AugSelf(port(step, "a"), port(step, "b"), crop=1.0, hidden=HIDDEN).double()
    _, target = module.predict(reading(views, "a"), reading(views, "b"))["crop"]
    params = [{**views[name].params, "crop": views[name].params["pad_crop"]} for name in "ab"]
    torch.testing.assert_close(target[:50], torch.tensor(target_slow("crop", *params), dtype=torch.float64))
    assert target[:, :2].abs().max() > 0.2
    assert not target[:, 2:].any()


# ----------------------------------------------------------------------------------------------------------- the loss


@pytest.mark.parametrize("names", ["ab", "abc", "tu"])
def test_losses_and_gradients(drawn, names):
    """All kinds against the slow reference; gradients to features and weights by its finite differences."""
    step, views = drawn
    rows = 6
    torch.manual_seed(1)
    weights = {kind: 0.5 + number for number, kind in enumerate(KINDS)}
    module = AugSelf(*[port(step, name) for name in names], **weights, hidden=HIDDEN).double()
    params = [a_few(views[name].params, rows) for name in names]
    values = [reading(views, name, seed).value[:rows].requires_grad_() for seed, name in enumerate(names)]
    found = module(*(Reading(value, None, drew) for value, drew in zip(values, params, strict=True)))
    assert list(found) == list(KINDS)
    for kind, loss in found.items():
        net = module.predictors[kind]
        state, arrays = in_numpy(dict(net.named_parameters())), [value.detach().numpy().copy() for value in values]

        def slow(state=state, arrays=arrays, kind=kind):
            return weights[kind] * loss_slow(kind, state, arrays, params)

        assert float(loss) == pytest.approx(slow(), rel=1e-10)
        wanted = [*values, *net.parameters()]
        gradients = torch.autograd.grad(loss, wanted)
        for array, gradient in zip([*arrays, *state.values()], gradients, strict=True):
            flat = array.reshape(-1)
            assert np.shares_memory(flat, array)
            for at in range(0, flat.size, max(1, flat.size // 4)):
                kept = flat[at]
                flat[at] = kept + 1e-6
                up = slow()
                flat[at] = kept - 1e-6
                down = slow()
                flat[at] = kept
                assert float(gradient.flatten()[at]) == pytest.approx((up - down) / 2e-6, rel=1e-4, abs=1e-8)


def test_the_loss_does_not_depend_on_the_order_of_views(drawn):
    step, views = drawn
    module = AugSelf(port(step, "a"), port(step, "b"), **dict.fromkeys(KINDS, 1.0), hidden=HIDDEN).double()
    a, b = reading(views, "a", 1), reading(views, "b", 2)
    forth, back = module(a, b), module(b, a)
    for kind in KINDS:
        assert float(forth[kind]) == pytest.approx(float(back[kind]), rel=1e-12)


def test_losses_are_means_over_rows(drawn):
    """With fixed statistics the loss of a batch is the mean of those of its parts: processes need no gather."""
    step, views = drawn
    module = AugSelf(port(step, "a"), port(step, "b"), **dict.fromkeys(KINDS, 1.0), hidden=HIDDEN).double().eval()
    whole = [reading(views, "a", 1), reading(views, "b", 2)]
    parts = []
    for rows in (slice(0, COUNT // 2), slice(COUNT // 2, None)):
        part = [
            Reading(one.value[rows], None, {op: {k: v[rows] for k, v in ps.items()} for op, ps in one.params.items()})
            for one in whole
        ]
        parts.append(module(*part))
    for kind, loss in module(*whole).items():
        assert float(loss) == pytest.approx(sum(float(part[kind]) for part in parts) / 2, rel=1e-12)


def test_losses_are_float32_under_autocast(drawn):
    step, views = drawn
    module = AugSelf(port(step, "a"), port(step, "b"), **dict.fromkeys(KINDS, 1.0), hidden=HIDDEN)
    readings = [replace(read, value=read.value.float()) for read in (reading(views, "a", 1), reading(views, "b", 2))]
    exact = module(*readings)
    with torch.autocast("cpu", torch.bfloat16):
        rough = module(*readings)
    for kind in KINDS:
        assert rough[kind].dtype == exact[kind].dtype == torch.float32
        assert float(rough[kind]) == pytest.approx(float(exact[kind]), rel=0.05)


def test_nets_are_the_papers(drawn):
    """Three linear layers, 512 hidden units, no bias before BatchNorm; a kind without a weight has no net."""
    step, _ = drawn
    module = AugSelf(port(step, "a", 64), port(step, "b", 64), crop=1.0, rotation=0.5, flip=2)
    assert list(module.predictors) == ["crop", "flip", "rotation"]
    for kind, columns in (("crop", 4), ("flip", 1), ("rotation", 4)):
        shapes = {name: tuple(value.shape) for name, value in module.predictors[kind].named_parameters()}
        assert shapes == {
            "0.weight": (512, 128), "1.weight": (512,), "1.bias": (512,),
            "3.weight": (512, 512), "4.weight": (512,), "4.bias": (512,),
            "6.weight": (columns, 512), "6.bias": (columns,),
        }  # fmt: skip
    assert all(name.split(".")[:2] in (["predictors", kind] for kind in module.weights) for name in module.state_dict())


# ----------------------------------------------------------------------------------------------------------- the step


def trained(relations, updates):
    """A step after so many updates on digits-like images, and its last output."""
    recipe = RECIPE.replace("  - augself(h(a), h(b), crop=1.0)\n", "".join(f"  - {each}\n" for each in relations))
    step = Step(parse_recipe(recipe), 10)
    optimizer = torch.optim.SGD(step.parameters(), lr=0.05, momentum=0.9)
    images, labels = photos(32, (24, 24)), torch.arange(32) % 10
    for epoch in range(updates):
        out = step(images, labels, index=range(32), epoch=epoch)
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
        step.after_step()
    return step, out


def test_a_step_beside_any_loss():
    relations = [
        "cross_entropy(logits(a), logits(b))",
        "augself(h(a), h(b), crop=0.5, color=2.0, rotation=1, weight=2)",
    ]
    relations += ["augself(h(a), h(b), h(c), solarize=1, hidden=8)"]
    step, out = trained(relations, 1)
    assert list(out["terms"]) == [
        "cross_entropy", "augself.crop", "augself.color", "augself.rotation", "augself_2.solarize",
    ]  # fmt: skip
    assert float(out["loss"].detach()) == pytest.approx(sum(float(term.detach()) for term in out["terms"].values()))
    for name, parameter in step.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_terms_carry_both_weights():
    terms = [trained([f"augself(h(a), h(b), {options})"], 1)[1]["terms"] for options in ("crop=1", "crop=3, weight=2")]
    assert float(terms[1]["augself.crop"]) == pytest.approx(6 * float(terms[0]["augself.crop"]), rel=1e-5)


def test_what_is_told_can_be_learnt():
    """Features that hold what was drawn: every net gets clearly under the best constant, on rows it has not seen."""
    step = Step(parse_recipe(RECIPE), 10)
    sizes = torch.full((512, 2), 40)
    torch.manual_seed(0)
    kinds = ("crop", "color", "flip", "blur", "solarize", "rotation")

    def readings(epoch):
        drew = sample_views({name: step.plan[name] for name in "ab"}, sizes, range(512), epoch, seed=0)
        made = []
        for params in drew.values():
            columns = [params["crop"]["box"], params["jitter"]["factors"] - 1, params["jitter"]["applied"][:, None]]
            columns += [torch.nn.functional.one_hot(params["rotate90"]["k"], 4)]
            columns += [params[op]["applied"][:, None] for op in ("flip", "vflip", "blur", "solarize")]
            columns += [params["blur"]["sigma"][:, None], params["solarize"]["threshold"][:, None]]
            made.append(Reading(torch.cat([column.float() for column in columns], dim=1), None, params))
        return made

    dim = readings(0)[0].value.shape[1]
    module = AugSelf(port(step, "a", dim), port(step, "b", dim), **dict.fromkeys(kinds, 1.0), hidden=64)
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    for epoch in range(60):
        optimizer.zero_grad()
        torch.stack(list(module(*readings(epoch)).values())).sum().backward()
        optimizer.step()
    module.eval()
    with torch.no_grad():
        losses, told = module(*readings(1000)), module.predict(*readings(1000))
    for kind in kinds:
        target = told[kind][1].double()
        if kind in ("flip", "rotation"):
            shares = torch.unique(target, return_counts=True)[1] / len(target)
            constant = -float((shares * shares.log()).sum())
        else:
            constant = float(target.var(dim=0, correction=0).mean())
        assert float(losses[kind]) < 0.5 * constant, kind


# ------------------------------------------------------------------------------------------------------- refused


def refused(relation, recipe=RECIPE):
    with pytest.raises(RecipeError) as caught:
        Step(parse_recipe(recipe.replace("augself(h(a), h(b), crop=1.0)", relation)), 10)
    text = str(caught.value)
    assert "\n" not in text
    return text.partition(f"relations.0: {relation}: ")[2] or text


@pytest.mark.parametrize(
    ("relation", "message"),
    [
        ("augself(h(a), h(b))",
         "give at least one kind a weight, as in crop=1.0; kinds: crop, color, flip, blur, rotation, solarize"),
        ("augself(h(a), crop=1)", "views differ in pairs; give two or more, got 1"),
        ("augself(h(a), h(a), crop=1)", "h(a) stands here twice, and does not differ from itself"),
        ("augself(h(a), h(b), crop=0)", "crop: a weight is a positive number, got 0; leave a kind out to drop it"),
        ("augself(h(a), h(b), crop=1, blur=-0.5)",
         "blur: a weight is a positive number, got -0.5; leave a kind out to drop it"),
        ("augself(h(a), h(b), crop=True)",
         "crop: a weight is a positive number, got True; leave a kind out to drop it"),
        ("augself(h(a), h(b), crop='much')",
         "crop: a weight is a positive number, got 'much'; leave a kind out to drop it"),
        ("augself(h(a), h(b), crop=1, hidden=0)", "width must be a whole number of at least 1, got 0"),
        ("augself(h(a), h(t), crop=1)",
         "h(a) has 1 row an image and h(t) has 3; relate views with the same number of members"),
        ("augself(h(a), logits(b), crop=1)",
         "h(a) has 64 columns and logits(b) has 10; relate readouts of the same width"),
    ],
)  # fmt: skip
def test_refused_arguments(relation, message):
    assert refused(relation) == message


def test_unknown_kinds_are_refused():
    assert "unknown argument 'colour'; did you mean 'color'?" in refused("augself(h(a), h(b), colour=1)")


@pytest.mark.parametrize(
    ("a", "b", "kind", "message"),
    [
        ("crop(24)", "crop(24) | flip(0.5)", "flip",
         "flip: the view of h(a) needs one flip among its own ops, has none; ops: crop"),
        ("crop(24) | flip(0.5)", "flip(0.5) | flip(0.5)", "flip",
         "flip: the view of h(b) needs one flip among its own ops, has flip and flip_again; ops: flip, flip_again"),
        ("resize(24)", "crop(24)", "crop",
         "crop: the view of h(a) needs one crop or pad_crop among its own ops, has none; ops: resize"),
        ("crop(30) | pad_crop(24)", "crop(24)", "crop",
         "crop: the view of h(a) needs one crop or pad_crop among its own ops, has crop and pad_crop; "
         "ops: crop, pad_crop"),
        ("jitter(0.4)", "jitter(0.4, 0.4)", "color",
         "color: jitter of h(a) and jitter of h(b) draw from unlike ranges; give them the same, only p may differ"),
        ("blur((0.1, 2))", "blur((0.1, 3))", "blur",
         "blur: blur of h(a) and blur of h(b) draw from unlike ranges; give them the same, only p may differ"),
        ("brightness(0.4)", "jitter(0.4)", "color",
         "color: the view of h(a) needs one jitter among its own ops, has none; ops: brightness"),
        ("crop(24) | flip()", "flip() | crop(24)", "crop",
         "crop: the view of h(b) has flip before crop, so that its boxes lie in unlike frames; put crop first"),
        ("rotate90() | crop(24)", "crop(24)", "crop",
         "crop: the view of h(a) has rotate90 before crop, so that its boxes lie in unlike frames; put crop first"),
        ("crop(24) | flip() | flip()", "crop(24)", "crop",
         "crop: the view of h(a) has flip and flip_again; one of them is enough"),
    ],
)  # fmt: skip
def test_refused_views(a, b, kind, message):
    recipe = RECIPE.splitlines()
    first = next(at for at, line in enumerate(recipe) if line.startswith("  a:"))
    recipe[first : first + 5] = [f'  a: {{from: image, make: "{a}"}}', f'  b: {{from: image, make: "{b}"}}']
    assert refused(f"augself(h(a), h(b), {kind}=1)", "\n".join(recipe)) == message


def test_what_a_view_derives_from_is_not_its_own():
    recipe = RECIPE.replace("  c: {like: a, same: [flip]}", '  c: {from: a, make: "invert(0.5)"}')
    message = "color: the view of h(c) needs one jitter among its own ops, has none; ops: invert"
    assert refused("augself(h(a), h(c), color=1)", recipe) == message


def test_ports_without_ops():
    with pytest.raises(RecipeError, match=r"view of h\(a\) needs one crop or pad_crop .* has none; ops: none"):
        AugSelf(Port("h(a)", 4), Port("h(b)", 4), crop=1.0)


def test_views_that_come_without_parameters():
    """Pixels alone, as somebody else's loader gives them."""
    step = Step(parse_recipe(RECIPE), 10)
    views = {name: View(torch.rand(4, 3, 24, 24)) for name in step.rendered_views}
    with pytest.raises(RecipeError, match=r"augself: h\(a\) comes without what 'crop' drew \(as from timm's loader\)"):
        step(views, torch.arange(4) % 10)


def test_rows_that_are_no_longer_a_views(drawn):
    step, views = drawn
    module = AugSelf(port(step, "t"), port(step, "u"), crop=1.0, hidden=HIDDEN).double()
    t, u = reading(views, "t"), reading(views, "u")
    with pytest.raises(RecipeError, match=rf"h\(t\) has {COUNT} rows, but 'crop' drew {3 * COUNT} times"):
        module(replace(t, value=t.value[::3]), replace(u, value=u.value[::3]))
