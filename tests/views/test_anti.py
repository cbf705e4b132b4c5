"""Views that take the opposite of another's draws, and views that are like one and derive from another."""

import pytest
import torch
from rich.console import Console

from manyview import Step
from manyview.errors import RecipeError, WordsError
from manyview.load import load_recipe
from manyview.show.plan import Plan, svg
from manyview.views.draws import Draws
from manyview.views.engine.render import sizes_of
from manyview.views.ops import OPS
from manyview.views.ops.op import turnable
from manyview.views.ops.policy import POLICY_OPS
from manyview.views.plan import ViewSpec, plan_views
from manyview.views.view import draw_boxes, draw_views, render_views, sample_views
from op_cases import CASES

SIGNED = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")


def plan(**views):
    return plan_views({name: ViewSpec(**spec) for name, spec in views.items()})


def photos(count=200, size=(40, 48)):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, *size), generator=generator, dtype=torch.uint8)


def pair(make, *anti, count=None):
    """Parameters of view a, and of b that is opposite to it in the ops named."""
    planned = plan(a={"from": "image", "make": make, "count": count}, b={"like": "a", "anti": anti})
    drawn = sample_views(planned, sizes_of(photos()), range(200), 3, 7)
    return drawn["a"], drawn["b"]


@pytest.mark.parametrize("make", ["flip", "vflip(0.5)"])
def test_exactly_one_of_a_pair_is_flipped(make):
    name = make.partition("(")[0]
    a, b = pair(make, name)
    assert torch.equal(a[name]["applied"], ~b[name]["applied"])
    assert 60 < a[name]["applied"].sum() < 140


@pytest.mark.parametrize("count", [None, 3])
@pytest.mark.parametrize("make", ["pad_crop(padding=5)", "pad_crop((12, 30), mode='reflect')", "crop(8, (0.1, 0.6))",
                                  "crop((9, 5), 0.3, 1)"])  # fmt: skip
def test_the_opposite_crop_lies_as_in_a_mirror(make, count):
    name = make.partition("(")[0]
    a, b = (drawn[name]["box"] for drawn in pair(make, name, count=count))
    assert torch.equal(a[:, 2:], b[:, 2:])
    torch.testing.assert_close(a[:, :2] + b[:, :2] + a[:, 2:], torch.ones(len(a), 2).double(), rtol=0, atol=1e-12)
    assert (a != b).any(dim=1).double().mean() > 0.9


def test_a_cutout_and_an_erased_box_lie_as_in_a_mirror():
    a, b = pair("cutout(8, p=0.5) | erase(0.5)", "cutout", "erase")
    sizes = torch.tensor([[40.0, 48.0]]).double()
    centres = [drawn["cutout"]["centre"] * sizes for drawn in (a, b)]
    torch.testing.assert_close(centres[0] + centres[1], (sizes - 1).expand(200, 2))
    assert torch.equal(a["cutout"]["applied"], ~b["cutout"]["applied"])
    boxes = [drawn["erase"]["box"] for drawn in (a, b)]
    torch.testing.assert_close(boxes[0][:, :2] + boxes[1][:, :2] + boxes[0][:, 2:], torch.ones(200, 2).double())


@pytest.mark.parametrize(("make", "key", "total"), [
    ("jitter(0.4, 0.4, 0.4, 0.1)", "factors", (2, 2, 2, 0)), ("brightness", "factor", 2), ("rotate(30)", "degrees", 0),
    ("translate(0.3, 0.1)", "shift", 0), ("shear(0.3, 0.1)", "tangent", 0), ("lighting", "alphas", 0),
    ("blur((0.1, 2), p=1)", "sigma", 2.1), ("posterize((3, 6))", "bits", 9), ("solarize((0.2, 1))", "threshold", 1.2),
])  # fmt: skip
def test_opposite_numbers_lie_about_the_middle_of_their_range(make, key, total):
    name = make.partition("(")[0]
    a, b = (drawn[name] for drawn in pair(make, name))
    both = (a[key] + b[key]).double()
    torch.testing.assert_close(both, torch.tensor(total).double().expand(both.shape), rtol=0, atol=1e-7)
    if "order" in a:
        assert torch.equal(a["order"], b["order"])


@pytest.mark.parametrize("make", ["randaugment(3, 9)", "randaugment(2, 5, ops='tpu')", "trivialaugment", "autoaugment"])
def test_opposite_policies_do_the_same_ops_the_other_way(make):
    name = make.partition("(")[0]
    a, b = (drawn[name] for drawn in pair(make, name))
    signed = torch.isin(a["op"], torch.tensor([list(POLICY_OPS).index(each) for each in SIGNED]))
    assert all(torch.equal(a[key], b[key]) for key in a if key != "magnitude")
    assert torch.equal(a["magnitude"][signed], -b["magnitude"][signed])
    assert torch.equal(a["magnitude"].abs(), b["magnitude"].abs())
    assert (a["magnitude"][signed] != 0).any()


def test_uniformaugment_turns_the_strength_too_on_which_its_slopes_and_turns_hang():
    a, b = (drawn["uniformaugment"] for drawn in pair("uniformaugment(3)", "uniformaugment"))
    assert torch.equal(a["op"], b["op"])
    assert torch.equal(a["applied"], b["applied"])
    for name in ("rotate", "shear_x", "shear_y", "brightness"):
        drawn = a["op"] == list(POLICY_OPS).index(name)
        torch.testing.assert_close(a["magnitude"][drawn], -b["magnitude"][drawn], rtol=0, atol=1e-7)


def test_each_op_names_draws_that_it_makes():
    """A name that is misspelt would turn nothing, in silence."""
    sizes, seen = torch.tensor([[40, 40]]).expand(400, 2), set()
    for name, given in CASES:
        coin = {"p": 0.5} if "p" in getattr(OPS[name], "__dataclass_fields__", {}) else {}
        op, draws = OPS[name](**{**given, **coin}), Draws(1, 2, range(400), "a", name)
        plain = op.sample(draws, sizes)
        for each in turnable(op):
            turned = op.sample(draws.opposite([each]), sizes)
            if any(not torch.equal(plain[key], turned[key]) for key in plain):
                seen.add((name, each))
    assert {(name, each) for name, kind in OPS.items() for each in turnable(kind)} == seen


def test_the_opposite_of_the_opposite_is_the_first_and_others_stay_their_own():
    planned = plan(
        a={"from": "image", "make": "crop(8) | flip | grayscale(0.5)"},
        b={"like": "a", "anti": ("crop", "flip")},
        c={"like": "b", "anti": ("crop",), "same": ("flip",)},
        d={"like": "b"},
        e={"from": "image", "make": "flip", "anti": ("a.flip",)},
    )
    drawn = sample_views(planned, sizes_of(photos()), range(200), 0, 0)
    flips = {name: ops["flip"]["applied"] for name, ops in drawn.items()}
    assert torch.equal(drawn["a"]["crop"]["box"], drawn["c"]["crop"]["box"])
    assert torch.equal(flips["b"], flips["c"])
    assert torch.equal(flips["b"], flips["e"])
    assert torch.equal(flips["b"], ~flips["a"])
    assert not torch.equal(flips["d"], flips["b"])
    assert not torch.equal(flips["d"], flips["a"])
    assert not torch.equal(drawn["a"]["grayscale"]["applied"], drawn["b"]["grayscale"]["applied"])


def test_opposite_views_change_no_other_and_are_the_same_alone_and_again():
    views = {"a": {"from": "image", "make": "crop(16) | flip | jitter(0.4) | randaugment(2, 9)"}}
    both = plan(**views, b={"like": "a", "anti": ("crop", "flip", "jitter", "randaugment")})
    images = photos(6)
    whole = draw_views(both, images, None, range(6), 2, 5)
    assert torch.equal(draw_views(plan(**views), images, None, range(6), 2, 5)["a"].images, whole["a"].images)
    alone = draw_views(both, images[[4]], None, [4], 2, 5)
    again = render_views(both, images, {name: view.params for name, view in whole.items()})
    for name, view in whole.items():
        assert torch.equal(alone[name].images, view.images[[4]])
        assert torch.equal(again[name].images, view.images)


def test_what_is_decoded_is_what_the_opposite_crop_takes():
    planned = plan(a={"from": "image", "make": "crop(8)"}, b={"like": "a", "anti": ("crop",)})
    sizes = sizes_of(photos(9))
    boxes, _ = draw_boxes(planned, sizes, range(9), 1, 0)
    drawn = sample_views(planned, sizes, range(9), 1, 0)
    for at, name in enumerate("ab"):
        torch.testing.assert_close(boxes[:, at] / sizes.repeat(1, 2), drawn[name]["crop"]["box"])


def test_the_difference_to_the_opposite_crop_is_twice_the_way_to_the_middle():
    """In a's frame, after a's flip, as AugSelf learns it."""
    a, b = pair("pad_crop | flip", "pad_crop", "flip")
    apart = OPS["pad_crop"]().difference(a["pad_crop"], b["pad_crop"], a)
    wanted = 2 * (a["pad_crop"]["box"][:, :2] + 0.5) - 1
    wanted[:, 1] = torch.where(a["flip"]["applied"], -wanted[:, 1], wanted[:, 1])
    torch.testing.assert_close(apart[:, :2], wanted)
    assert not OPS["flip"]().difference(a["flip"], b["flip"]).any()


# ------------------------------------------------------------------------------------------------ epochs in turns


def over_epochs(planned, epochs, seed=3):
    return [sample_views(planned, sizes_of(photos()), range(200), epoch, seed) for epoch in range(epochs)]


def test_every_second_epoch_shows_the_opposite_of_the_one_before():
    make = "crop(8) | flip | grayscale(0.5)"
    drawn = over_epochs(plan(a={"from": "image", "make": make, "alternate": ("flip", "crop")}), 4)
    plain = over_epochs(plan(a={"from": "image", "make": make}), 4)
    flips, boxes = ([each["a"][op][key] for each in drawn] for op, key in (("flip", "applied"), ("crop", "box")))
    for first in (0, 2):
        assert torch.equal(flips[first], plain[first]["a"]["flip"]["applied"])
        assert torch.equal(flips[first + 1], ~flips[first])
        mirrored = boxes[first][:, :2] + boxes[first + 1][:, :2] + boxes[first][:, 2:]
        torch.testing.assert_close(mirrored, torch.ones(200, 2).double(), rtol=0, atol=1e-12)
    assert not torch.equal(flips[2], flips[0])
    assert not torch.equal(flips[2], flips[1])
    for each, usual in zip(drawn, plain, strict=True):  # what is not named draws anew
        assert torch.equal(each["a"]["grayscale"]["applied"], usual["a"]["grayscale"]["applied"])


def test_what_is_opposite_to_an_op_that_alternates_stays_so_and_members_alternate_each():
    planned = plan(
        a={"from": "image", "make": "flip", "alternate": ("flip",), "count": 2},
        b={"like": "a", "anti": ("flip",)},
        c={"like": "a", "same": ("flip",)},
        d={"like": "a"},
    )
    flips = [{name: ops["flip"]["applied"] for name, ops in each.items()} for each in over_epochs(planned, 3)]
    for each in flips:
        assert torch.equal(each["b"], ~each["a"])
        assert torch.equal(each["c"], each["a"])
    assert torch.equal(flips[1]["a"], ~flips[0]["a"])
    assert not torch.equal(flips[0]["a"][::2], flips[0]["a"][1::2])
    assert not torch.equal(flips[1]["d"], ~flips[0]["d"])  # draws of its own, and it was not told to


@pytest.mark.parametrize(("views", "told"), [
    ({"a": {"from": "image", "make": "flip", "alternate": ("crop",)}}, "view 'a' has no op 'crop'; ops: flip"),
    ({"a": {"from": "image", "make": "rotate90", "alternate": ("rotate90",)}}, "'rotate90' draws nothing that has an"),
    ({"a": {"from": "image", "make": "flip"}, "b": {"like": "a", "anti": ("flip",), "alternate": ("flip",)}},
     "'flip' is told twice; what 'same' or 'anti' names alternates where that does"),
    ({"a": {"from": "image", "make": "flip", "alternate": ("flip", "flip")}}, "'flip' is told twice"),
])  # fmt: skip
def test_what_cannot_alternate_is_refused(views, told):
    with pytest.raises(RecipeError, match=rf"views\.[ab]\.alternate: {told}"):
        plan(**views)


# ---------------------------------------------------------------------------------------------------- like, and from


def test_like_one_view_and_from_another_is_its_ops_on_the_other():
    planned = plan(
        a={"from": "image", "make": "crop(16) | flip"},
        b={"like": "a"},
        heavy_a={"from": "a", "make": "randaugment(2, 9) | cutout(4)"},
        heavy_b={"like": "heavy_a", "from": "b"},
        tied={"like": "heavy_a", "from": "b", "same": ("randaugment",), "anti": ("cutout",)},
        written={"from": "b", "make": "randaugment(2, 9) | cutout(4)"},
    )
    assert [op.owner for op in planned["heavy_b"].ops] == [("heavy_b", "randaugment"), ("heavy_b", "cutout")]
    assert planned["heavy_b"].source == planned["tied"].source == "b"
    assert [op.op for op in planned["heavy_b"].ops] == [op.op for op in planned["written"].ops]
    views = draw_views(planned, photos(20), torch.arange(20), range(20), 1, 2, compiled=False)
    made = views["b"].images
    for op in planned["heavy_b"].ops:
        made = op.op.render(made, views["heavy_b"].params[op.name])
    assert torch.equal(views["heavy_b"].images, made)
    tied, first = views["tied"].params, views["heavy_a"].params
    assert torch.equal(tied["randaugment"]["magnitude"], first["randaugment"]["magnitude"])
    torch.testing.assert_close(16 * (tied["cutout"]["centre"] + first["cutout"]["centre"]), torch.full((20, 2), 15.0))


def test_like_a_family_from_another_view_is_a_family():
    planned = plan(
        c={"from": "image", "make": "crop(8)", "count": 3},
        d={"like": "c", "from": "c.1"},
        r={"from": "image", "make": "crop(8)", "orbit": "rotation"},
        q={"like": "r", "from": "r.2"},
    )
    assert (planned["d"].source, planned["d"].count) == ("c.1", 3)
    assert (planned["q"].source, planned["q"].orbit) == ("r.2", "rotation")


# ------------------------------------------------------------------------------------------------------ in a recipe

RECIPE = """title: opposite views of digits
data: {source: digits, limit: 100}
views:
  a: {from: image, make: "resize(16) | pad_crop(padding=2) | flip"}
  b: {like: a, anti: [flip, pad_crop]}
  heavy_a: {from: a, make: cutout(4)}
  heavy_b: {like: heavy_a, from: b}
branches: {net: {backbone: cresnet20, normalize: half}}
relations:
  - cross_entropy(logits(a), logits(b), logits(heavy_a), logits(heavy_b))
train: {epochs: 1, batch_size: 50}
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "opposite.yaml"
    path.write_text(RECIPE)
    return load_recipe(path)


def test_the_plan_and_its_figure_tell_who_is_opposite_to_whom(recipe, tmp_path):
    path = tmp_path / "turns.yaml"
    plan = Plan(recipe, Step(recipe, 10))
    console = Console(width=240)
    with console.capture() as shown:
        console.print(plan.render())
    assert "pad_crop(padding=2) opposite to a | flip() opposite to a" in shown.get()
    assert ">b  (opposite to a)<" in svg(plan.recipe)
    assert recipe.view_plan["heavy_b"].source == "b"
    path.write_text(RECIPE.replace('| flip"}', '| flip", alternate: [flip]}'))
    turns = load_recipe(path)
    with console.capture() as shown:
        console.print(Plan(turns, Step(turns, 10)).render())
    assert "flip() in turns with its opposite" in shown.get()
    assert "flip() opposite to a in turns" in shown.get()


def test_a_recipe_with_opposite_views_survives_writing_and_overrides(recipe, tmp_path):
    path = tmp_path / "opposite.yaml"
    path.write_text(recipe.to_yaml())
    assert load_recipe(path).view_plan == recipe.view_plan
    changed = load_recipe(path, "views.b.anti=[flip]", "views.heavy_b.from=a")
    assert [op.turned for op in changed.view_plan["b"].ops] == [False, False, True]
    assert changed.view_plan["heavy_b"].source == "a"
    with pytest.raises(RecipeError, match=r"views\.b\.anti: 'resize' draws nothing that has an opposite"):
        load_recipe(path, "views.b.anti=[resize]")


OWN = """from dataclasses import dataclass
import torch

@dataclass(frozen=True)
class Dim:
    anti = ANTI
    p: float = 0.5
    def sample(self, draws, sizes):
        return {"applied": draws.coin("applied", self.p)}
    def render(self, images, params):
        return torch.where(params["applied"].to(images.device).view(-1, 1, 1, 1), images // 2, images)
    def difference(self, a, b, frame=None):
        return (a["applied"].double() - b["applied"].double())[:, None]
    def output_size(self, sizes):
        return sizes

OPS = {"dim": Dim}
"""


def test_an_op_of_ones_own_says_what_has_an_opposite(tmp_path):
    path, words = tmp_path / "own.yaml", tmp_path / "words.py"
    path.write_text(
        RECIPE.replace("| flip", "| dim").replace("[flip, pad_crop]", "[dim]").replace("images // 2", "images")
    )
    words.write_text(
        OWN.replace("ANTI", '("applied",)').replace(
            "images // 2", "images * 0.5 if images.is_floating_point() else images // 2"
        )
    )
    made = load_recipe(path, use=[words])
    drawn = sample_views(made.view_plan, sizes_of(photos(50)), range(50), 0, 0)
    assert torch.equal(drawn["a"]["dim"]["applied"], ~drawn["b"]["dim"]["applied"])
    words.write_text(OWN.replace("ANTI", '"applied"'))
    with pytest.raises(WordsError, match=r"anti names draws that have an opposite, as in anti: ClassVar = "):
        load_recipe(path, use=[words])
