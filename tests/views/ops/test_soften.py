"""Targets softened by what a view shows: the share counted pixel by pixel, the target from the equation."""

import numpy as np
import pytest
import torch

import references as ref
from manyview import functional as F
from manyview import parse_recipe
from manyview.errors import RecipeError
from manyview.relations.cross_entropy import CrossEntropy
from manyview.relations.reading import FitError, Port, Reading
from manyview.step import Step
from manyview.views.ops import OPS
from manyview.views.plan import ViewSpec, plan_views
from manyview.views.view import draw_views, member_view, render_views, sample_views, to_device

COUNT, CLASSES = 24, 4
LABELS = torch.arange(COUNT) % CLASSES


def plan(**views):
    return plan_views({name: ViewSpec(**{"from": "image", **spec}) for name, spec in views.items()})


def see(planned, size=(24, 24), rows=range(COUNT), target=LABELS):
    images = torch.randint(0, 256, (COUNT, 3, *size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    target = None if target is None else target[list(rows)]
    return draw_views(planned, images[list(rows)], target, list(rows), 1, 5, CLASSES)


def boxes(view, op, size):
    """Boxes of an op in whole pixels, a list an image."""
    return (view.params[op]["box"] * torch.tensor([*size, *size])).round().long().tolist()


def shares(view):
    return view.params["soften"]["visible"].tolist()


@pytest.mark.parametrize("size", [(24, 24), (20, 32)])
@pytest.mark.parametrize(
    "crop", ["pad_crop(padding=9)", "pad_crop((16, 14), padding=7, mode='reflect')", "center_crop(11)"]
)
def test_the_share_is_that_of_the_pixels_counted(crop, size):
    """Crops over the edge, a flip between them and what hides, holes partly in the padding."""
    view = see(plan(a={"make": f"{crop} | flip | cutout(7, p=0.6) | soften(2)"}), size)["a"]
    name, ways = crop.partition("(")[0], []
    out = view.images.shape[-2:]
    centres = (view.params["cutout"]["centre"] * torch.tensor(out)).round().long().tolist()
    for i, box in enumerate(boxes(view, name, size)):
        steps = [("cut", *box)]
        steps += [("flip",)] if view.params["flip"]["applied"][i] else []
        steps += [("hide", *(at - 3 for at in centres[i]), 7, 7)] if view.params["cutout"]["applied"][i] else []
        ways.append((*size, steps))
    np.testing.assert_allclose(shares(view), ref.visible_pixels(ways), atol=1e-12)
    assert min(shares(view)) < 0.6


def test_a_crop_shows_its_box_and_an_erased_box_hides():
    view = see(plan(a={"make": "crop(24, scale=(0.2, 0.9)) | erase(0.5) | soften"}))["a"]
    box, hole = view.params["crop"]["box"], view.params["erase"]
    wanted = box[:, 2] * box[:, 3] * (1 - hole["applied"] * hole["box"][:, 2] * hole["box"][:, 3])
    torch.testing.assert_close(view.params["soften"]["visible"], wanted)
    moved = see(plan(a={"make": "translate((0.25, 0.25), (-0.5, -0.5)) | rotate90 | vflip | cutout(12) | soften"}))["a"]
    left = moved.params["soften"]["visible"]
    assert ((left <= 0.375 + 1e-9) & (left >= 0.375 - 0.25)).all()
    assert torch.equal(see(plan(a={"make": "center_crop(24) | flip | soften"}))["a"].target, torch.eye(4)[LABELS])


@pytest.mark.parametrize("turn", ["rotate90", "vflip", "flip"])
def test_what_moves_the_image_moves_the_place_where_a_hole_hides(turn):
    """A hole that covers the whole frame but its border leaves nothing, wherever the image lies in it."""
    view = see(plan(a={"make": f"pad_crop(padding=12) | {turn} | center_crop(12) | soften"}))["a"]
    ways = []
    for i, box in enumerate(boxes(view, "pad_crop", (24, 24))):
        frame = np.arange(24 * 24).reshape(24, 24)
        padded = np.pad(frame, 12, constant_values=-1)[box[0] + 12 : box[0] + 36, box[1] + 12 : box[1] + 36]
        if turn == "rotate90":
            padded = np.rot90(padded, int(view.params[turn]["k"][i]))
        elif view.params[turn]["applied"][i]:
            padded = padded[::-1] if turn == "vflip" else padded[:, ::-1]
        ways.append((padded[6:18, 6:18] >= 0).sum() / 24**2)
    np.testing.assert_allclose(shares(view), ways, atol=1e-12)


@pytest.mark.parametrize(("k", "floor"), [(1, None), (2.0, 0.1), (4, 0.0), (0.5, 1.0)])
def test_the_target_is_that_of_the_equation(k, floor):
    share = torch.linspace(0, 1, COUNT, dtype=torch.float64)
    wanted = ref.soften(LABELS.tolist(), share.tolist(), CLASSES, k, floor)
    ours = F.soften(LABELS, share, CLASSES, k, floor)
    np.testing.assert_allclose(ours.numpy(), wanted, atol=1e-6)
    np.testing.assert_allclose(ours.sum(1).numpy(), 1, atol=1e-6)
    view = see(plan(a={"make": f"pad_crop(padding=9) | soften({k}, floor={floor})"}))["a"]
    np.testing.assert_allclose(view.target, ref.soften(LABELS.tolist(), shares(view), CLASSES, k, floor), atol=1e-6)
    assert torch.equal(F.soften(LABELS, torch.ones(COUNT), CLASSES, k, floor), torch.eye(CLASSES)[LABELS])
    soft = torch.rand(COUNT, CLASSES).softmax(1)
    by_class = sum(soft[:, [c]] * F.soften(torch.full((COUNT,), c), share, CLASSES, k, floor) for c in range(CLASSES))
    torch.testing.assert_close(F.soften(soft, share, CLASSES, k, floor), by_class)


def test_the_image_stays_and_an_image_alone_is_softened_the_same():
    planned = plan(
        a={"make": "crop(16) | flip | cutout(4) | soften"},
        b={"make": "crop(16) | flip | cutout(4)", "same": ("a.crop", "a.flip", "a.cutout")},
    )
    views, alone = see(planned), see(planned, rows=[7])
    assert torch.equal(views["a"].images, views["b"].images)
    assert torch.equal(views["b"].target, LABELS)
    assert torch.equal(alone["a"].target, views["a"].target[[7]])
    assert torch.equal(alone["a"].params["soften"]["visible"], views["a"].params["soften"]["visible"][[7]])


def test_what_a_view_above_took_away_counts_and_a_view_below_inherits():
    views = see(plan(
        a={"make": "crop(16, scale=(0.3, 0.6))"},
        heavy={"from": "a", "make": "cutout(8) | soften"},
        last={"from": "heavy", "make": "cutout(8)"},
    ))  # fmt: skip
    box = views["a"].params["crop"]["box"]
    assert (views["heavy"].params["soften"]["visible"] <= box[:, 2] * box[:, 3] + 1e-12).all()
    assert (views["heavy"].params["soften"]["visible"] < box[:, 2] * box[:, 3]).any()
    assert torch.equal(views["a"].target, LABELS)
    assert torch.equal(views["last"].target, views["heavy"].target)


def test_members_of_a_family_are_softened_each_by_its_own_view():
    planned = plan(
        c={"make": "pad_crop(padding=9) | cutout(6) | soften", "count": 3},
        d={"from": "c.1", "make": "flip", "count": 2},
        e={"make": "pad_crop(padding=9)", "count": 3},
        f={"from": "e.2", "make": "cutout(6) | soften", "count": 2},
        r={"make": "pad_crop(padding=9) | soften", "orbit": "rotation"},
    )
    views = see(planned)
    for t in range(3):
        member = member_view(views["c"], t)
        np.testing.assert_allclose(member.target, ref.soften(LABELS.tolist(), shares(member), CLASSES, 2), atol=1e-6)
    assert not torch.equal(member_view(views["c"], 0).target, member_view(views["c"], 1).target)
    assert torch.equal(views["d"].target, views["c"].target[1::3].repeat_interleave(2, dim=0))
    assert torch.equal(views["r"].target, views["r"].target[::4].repeat_interleave(4, dim=0))
    e, f = member_view(views["e"], 2), views["f"]
    whole = [ref.visible_pixels([(24, 24, [("cut", *box)])])[0] for box in boxes(e, "pad_crop", (24, 24))]
    assert (
        f.params["soften"]["visible"] <= torch.tensor(whole, dtype=torch.float64).repeat_interleave(2) + 1e-12
    ).all()
    assert f.target.shape == (2 * COUNT, CLASSES)


@pytest.mark.parametrize("op", ["mixup(1.0, per='image')", "cutmix"])
def test_mixing_mixes_targets_that_were_softened_each_by_its_own_view(op):
    name = op.partition("(")[0]
    for count in (None, 2):
        view = see(plan(a={"make": f"pad_crop(padding=9) | soften | {op}", "count": count}))["a"]
        for t in range(count or 1):
            member = member_view(view, t) if count else view
            soft = ref.soften(LABELS.tolist(), shares(member), CLASSES, 2)
            lam, partner = member.params[name]["lam"].numpy()[:, None], member.params[name]["partner"].numpy()
            np.testing.assert_allclose(member.target, lam * soft + (1 - lam) * soft[partner], atol=1e-6)
    below = see(plan(a={"make": "pad_crop(padding=9) | soften"}, m={"from": "a", "make": op}))
    assert not torch.equal(below["m"].target, below["a"].target)


def test_rendered_again_the_target_is_the_same_and_labels_cannot_come_later():
    planned = plan(a={"make": "pad_crop(padding=9) | soften"}, b={"from": "a", "make": "flip"})
    views = see(planned)
    images = torch.zeros(COUNT, 3, 24, 24, dtype=torch.uint8)
    again = render_views(planned, images, {name: view.params for name, view in views.items()}, LABELS, CLASSES)
    assert torch.equal(again["b"].target, views["b"].target)
    bare = see(planned, target=None)["b"]
    assert bare.target is None
    with pytest.raises(ValueError, match=r"softened or mixed without labels; pass labels where the views are drawn"):
        bare.labelled(LABELS)


def test_targets_on_a_device_are_softened_without_asking_it_for_a_number():
    planned = plan(a={"make": "pad_crop(padding=9) | soften"}, c={"from": "a", "make": "cutout(4) | mixup", "count": 2})
    device = torch.device("meta")  # which has no numbers to give
    params = to_device(sample_views(planned, torch.tensor([[24, 24]]).expand(COUNT, 2), range(COUNT), 1, 5), device)
    images = torch.zeros(COUNT, 3, 24, 24, dtype=torch.uint8, device=device)
    made = render_views(planned, images, params, LABELS.to(device), CLASSES)
    assert made["c"].target.shape == (2 * COUNT, CLASSES)


def test_the_difference_is_that_of_the_shares():
    views = see(plan(a={"make": "crop(8) | soften"}, b={"like": "a", "from": None}))
    a, b = (views[name].params["soften"] for name in "ab")
    assert torch.equal(OPS["soften"]().difference(a, b)[:, 0], a["visible"] - b["visible"])
    assert torch.equal(OPS["soften"]().difference(a, b), -OPS["soften"]().difference(b, a))


MAKE = "crop(8) | flip"
REFUSED = [
    ({"a": {"make": "flip | soften"}}, "a.make: soften: nothing before it hides a part of the image; put it behind"),
    ({"a": {"make": "soften | crop(8)"}}, "a.make: soften: nothing before it hides"),
    ({"a": {"make": f"{MAKE} | soften | soften"}}, "a.make: soften_again: the target is softened already; once"),
    ({"a": {"make": f"{MAKE} | soften"}, "b": {"from": "a", "make": "cutout(2) | soften"}}, "b.make: soften: the"),
    ({"a": {"make": f"{MAKE} | cutmix | soften"}}, "a.make: soften: put it before mixup and cutmix"),
    ({"a": {"make": f"{MAKE} | mixup"}, "b": {"from": "a", "make": "cutout(2) | soften"}}, "b.make: soften: put it"),
    ({"a": {"make": MAKE, "orbit": "rotation"}, "b": {"from": "a.0", "make": "cutout(2) | soften"}},
     "b.make: soften looks back at all that was drawn, which 'a' turns; put it into 'a'"),
    ({"a": {"make": "one_of('flip', 'soften')"}}, "soften changes the target, which cannot be one way of several"),
    ({"a": {"make": f"{MAKE} | soften(0)"}}, "k must be a number above 0, got 0"),
    ({"a": {"make": f"{MAKE} | soften(floor=2)"}}, r"floor must be a number in \[0, 1\], got 2"),
    ({"a": {"make": MAKE}, "test": {"make": "center_crop(8) | soften"}}, "the test view draws nothing"),
    ({"a": {"make": f"{MAKE} | soften"}, "b": {"like": "a", "anti": ("soften",)}}, "'soften' draws nothing that has"),
]  # fmt: skip


@pytest.mark.parametrize(("views", "message"), REFUSED, ids=lambda value: str(value)[:60])
def test_what_cannot_be_meant_is_one_line(views, message):
    with pytest.raises(RecipeError, match=message) as told:
        plan(**views)
    assert "\n" not in str(told.value)


# ------------------------------------------------------------------------------------------------ in cross-entropy


def port(**more):
    return Port("logits(a)", CLASSES, classes=CLASSES, ops={"soften": OPS["soften"](k=3)}, **more)


def test_rows_are_weighed_by_their_confidence():
    logits = torch.randn(COUNT, CLASSES, dtype=torch.float64, requires_grad=True)
    share = torch.linspace(0, 1, COUNT, dtype=torch.float64)
    soft = F.soften(LABELS, share, CLASSES, 3)
    reading = Reading(logits, soft.double(), {"soften": {"visible": share}})
    module = CrossEntropy(port(), reweigh=True)
    target = ref.soften(LABELS.tolist(), share.tolist(), CLASSES, 3)
    log_p = ref.log_softmax(logits.detach().numpy())
    sure = target[np.arange(COUNT), LABELS]
    wanted = np.mean([w * -(t * p).sum() for w, t, p in zip(sure, target, log_p, strict=True)])
    np.testing.assert_allclose(module(reading).item(), wanted, atol=1e-7)
    # the authors' loss is the weighed KL divergence, of the same gradient
    ours = torch.autograd.grad(module(reading), logits)[0]
    kl = torch.nn.functional.kl_div(logits.log_softmax(1), soft.double(), reduction="none").sum(1)
    theirs = torch.autograd.grad((torch.from_numpy(sure) * kl).mean(), logits)[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


def test_reweighing_needs_views_that_soften():
    with pytest.raises(
        FitError, match=r"logits\(b\): reweigh=True weighs rows by what their view shows; end its ops with"
    ):
        CrossEntropy(port(), Port("logits(b)", CLASSES, classes=CLASSES), reweigh=True)
    with pytest.raises(ValueError, match="reweigh and poly are alternatives"):
        CrossEntropy(port(), reweigh=True, poly=1)
    with pytest.raises(ValueError, match="reweigh must be True or False"):
        CrossEntropy(port(), reweigh="yes")


RECIPE = """title: soft crops of digits
data: {source: digits, limit: 100}
views:
  a: {from: image, make: "resize(16) | pad_crop(padding=6) | flip | soften(k=2)"}
  c: {from: image, make: "resize(16) | pad_crop(padding=6) | cutout(4) | soften(k=4)", count: 2}
  test: {from: image, make: resize(16)}
branches: {net: {backbone: cresnet20, normalize: half}}
relations: ["cross_entropy(logits(a), logits(c), logits(c.1), reweigh=True)"]
train: {epochs: 1, batch_size: 50}
"""


def test_a_step_learns_from_softened_targets_of_views_and_families():
    recipe = parse_recipe(RECIPE)
    step = Step(recipe, 10, total_steps=5)
    images = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8)
    labels, index = torch.arange(6), torch.arange(6)
    out = step(images, labels, index=index, epoch=0)
    views = step.views(images, labels, index=index, epoch=0)
    again = step(views, labels, index=index, epoch=0)
    torch.testing.assert_close(out["loss"], again["loss"])
    out["loss"].backward()
    kept = step.views(images, labels, index=index, epoch=0)["c"]
    assert torch.equal(kept.target, views["c"].target)
    assert [
        op.op.k for op in parse_recipe(RECIPE, "views.a.make.soften.k=3").view_plan["a"].ops if op.name == "soften"
    ] == [3]


@pytest.mark.parametrize("line", ["joint_cross_entropy(joint(c))", "supervised_contrastive(h(a), h(c))"])
def test_softened_labels_are_refused_where_one_a_row_is_needed(line):
    text = RECIPE.replace("cross_entropy(logits(a), logits(c), logits(c.1), reweigh=True)", line)
    text = text.replace("count: 2", "orbit: rotation").replace("half", 'half, joint: "linear(h, orbit=c)"')
    name = line.partition("(")[0]
    with pytest.raises(RecipeError, match=rf"[(][ac]\): its view softens the label; {name} needs one a row$"):
        Step(parse_recipe(text), 10, total_steps=5)
