"""one_of: each image goes the way that was drawn for it, and looks as that way's ops alone make it."""

import pytest
import torch
from scipy import stats

from manyview.errors import RecipeError
from manyview.foundation.grammar import parse_call
from manyview.show.plan import describe
from manyview.views.draws import Draws
from manyview.views.engine.render import render
from manyview.views.ops import OPS
from manyview.views.ops.op import as_float
from manyview.views.plan import ViewSpec, plan_views
from manyview.views.view import draw_views
from op_cases import OBLONG, SQUARE, photos

OneOf = OPS["one_of"]
DSSL = OneOf("randaugment(2, 5, ops='dssl')", "grid_shuffle(4)", p=(0.9, 0.1))
CASES = [
    DSSL,
    OneOf("flip(1)", "vflip(1)"),
    OneOf("jitter(0.4, 0.4, 0.4, 0.1)", "grid_shuffle(3) | invert(1)", "equalize(1)", p=(0.3, 0.3, 0.2)),
    OneOf("blur(p=0.5) | cutout(8)", "augmix(3)", p=(0.5, 0)),
    OneOf("pad_crop() | flip(1)", "flip(1)", p=(0.4, 0.4)),  # not every image is read by the first of its ops
]
EVERY = pytest.mark.parametrize("op", CASES, ids=describe)
DTYPES = pytest.mark.parametrize("dtype", [torch.uint8, torch.float32], ids=str)
COUNT = 40


def draw(op, count=COUNT, size=SQUARE, view="a", seed=0):
    return op.sample(Draws(seed, 0, range(count), view, "op"), torch.tensor([size]).expand(count, 2))


def rows(params, at):
    return {name: values[at] for name, values in params.items()}


def way_of(params, way, name):
    return {key.split(".", 2)[2]: values for key, values in params.items() if key.startswith(f"{way}.{name}.")}


@EVERY
@DTYPES
@pytest.mark.parametrize("size", [SQUARE, OBLONG], ids=str)
def test_each_image_is_what_the_ops_of_its_way_make_of_it(op, dtype, size):
    images, params = photos(COUNT, size, dtype), draw(op, size=size)
    kept, before = images.clone(), {key: values.clone() for key, values in params.items()}
    made = op.render(images, params)
    assert len(set(params["way"].tolist())) > 1
    for i in range(COUNT):
        expected, way = images[i : i + 1], int(params["way"][i])
        for name, one in op.ops[way] if way >= 0 else ():
            expected = one.render(expected, way_of(rows(params, slice(i, i + 1)), way, name))
        if made.is_floating_point():
            expected = as_float(expected)
        assert torch.equal(made[i : i + 1], expected)
        assert torch.equal(op.render(images[i : i + 1], rows(params, slice(i, i + 1))).to(made.dtype), expected)
    assert torch.equal(images, kept)
    assert all(torch.equal(params[key], before[key]) for key in params)
    assert torch.equal(made, op.render(images, draw(op, size=size)))


@EVERY
@pytest.mark.parametrize("size", [SQUARE, OBLONG], ids=str)
def test_the_compiled_form_is_as_the_reference(op, size):
    images, params = photos(COUNT, size), draw(op, size=size)
    ours, reference = render([(op, params)], images), op.render(images, params)
    apart = (ours.double() - (reference * 255 if reference.is_floating_point() else reference).double()).abs()
    assert (apart <= 2).double().mean() >= 0.995
    for i in (0, 7, COUNT - 1):
        assert torch.equal(render([(op, rows(params, slice(i, i + 1)))], images[i : i + 1])[0], ours[i])


@pytest.mark.parametrize("op", CASES[:3], ids=describe)
def test_ways_are_drawn_as_often_as_asked(op):
    many = 20_000
    ways = draw(op, many)["way"]
    chances = [*op.p, 1 - sum(op.p)]
    observed = [int((ways == way).sum()) for way in (*range(len(op.ways)), -1)]
    expected = [chance * many for chance in chances if chance > 1e-9]
    assert stats.chisquare([o for o, c in zip(observed, chances, strict=True) if c > 1e-9], expected).pvalue > 1e-4
    assert sum(observed) == many


def test_what_is_never_drawn_changes_nothing():
    images = photos(COUNT, SQUARE)
    never = OneOf("invert(1)", "grid_shuffle(2)", p=(0, 0))
    assert (draw(never)["way"] == -1).all()
    assert torch.equal(never.render(images, draw(never)), images)
    assert torch.equal(render([(never, draw(never))], images), images)


def test_an_image_draws_the_same_in_any_batch_and_ways_draw_apart():
    op = OneOf("blur(p=1)", "blur(p=1)")
    params = draw(op)
    alone = op.sample(Draws(0, 0, [5], "a", "op"), torch.tensor([SQUARE]))
    assert all(torch.equal(alone[key][0], params[key][5]) for key in params)
    assert not torch.equal(params["0.blur.sigma"], params["1.blur.sigma"])
    assert not torch.equal(draw(op, view="b")["way"], params["way"])


def test_difference_says_who_took_which_way():
    a, b = draw(DSSL), draw(DSSL, view="b")
    difference = DSSL.difference(a, b)
    assert difference.shape == (COUNT, 2)
    assert torch.equal(difference, -DSSL.difference(b, a))
    assert not DSSL.difference(a, a).any()
    assert set(difference[a["way"] == b["way"]].flatten().tolist()) == {0.0}


def test_a_recipe_may_write_ways_as_calls_or_in_quotes():
    def see(make, compiled=True):
        plan = plan_views({"a": ViewSpec(**{"from": "image", "make": make})})
        return draw_views(plan, photos(9, SQUARE), None, range(9), 1, 2, compiled=compiled)["a"]

    quoted = see("flip | one_of(\"randaugment(2, 5)\", 'grid_shuffle(4)', p=(0.5, 0.5)) | cutout(4)")
    bare = see("flip | one_of(randaugment(2, 5), grid_shuffle(4), p=(0.5, 0.5)) | cutout(4)")
    assert torch.equal(quoted.images, bare.images)
    assert quoted.params["one_of"].keys() == {"way", "0.randaugment.op", "0.randaugment.magnitude",
                                              "1.grid_shuffle.order", "1.grid_shuffle.applied"}  # fmt: skip
    assert describe(DSSL) == "one_of(\"randaugment(2, 5, ops='dssl')\", 'grid_shuffle(4)', p=(0.9, 0.1))"
    assert OneOf(*parse_call(describe(DSSL), "").args, p=(0.9, 0.1)) == DSSL


@EVERY
def test_rendering_needs_no_number(op):
    meta = {key: values.to("meta") for key, values in draw(op, 6).items()}
    assert op.render(photos(6, SQUARE).to("meta"), meta).shape == (6, 3, *SQUARE)


@pytest.mark.parametrize("op", CASES[1:3], ids=describe)
def test_rendering_is_one_graph_with_the_same_pixels(op):
    images, params = photos(6, SQUARE), draw(op, 6)
    torch.compiler.reset()
    compiled = torch.compile(op.render, backend="eager", fullgraph=True)
    assert torch.equal(compiled(images, params), op.render(images, params))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("one_of('flip(1)')", 'one_of draws from two ways or more, as in one_of("flip(1)", "vflip(1)"), got 1'),
        ("one_of('flip(1)', 'flop(1)')", "way 'flop(1)': unknown op 'flop'; did you mean 'flip'? ops: "),
        ("one_of('flip(1)', 'blur(s=1)')", "way 'blur(s=1)': blur: unknown argument 's'; "),
        ("one_of('flip(1)', 'blur(p=2)')", "way 'blur(p=2)': blur(p=2): p must be a probability in [0, 1], got 2"),
        ("one_of('flip(1)', 'crop(8)')", "way 'crop(8)': crop changes the image's size; put it before or after one_of"),
        ("one_of('flip(1)', 'mixup(1)')", "way 'mixup(1)': mixup mixes images with one another, which cannot be "),
        ("one_of('flip(1)', 'flip(1) | flip(1)')", "way 'flip(1) | flip(1)': flip stands twice; once is enough"),
        ("one_of('flip(1)', 'one_of(a, b)')", "way 'one_of(a, b)': unknown op 'one_of'"),
        ("one_of('flip(1)', 'vflip(1)', p=0.5)", "p gives each of the 2 ways its chance, got 0.5"),
        ("one_of('flip(1)', 'vflip(1)', p=(0.5, 0.2, 0.1))", "p gives each of the 2 ways its chance, got (0.5, 0.2"),
        ("one_of('flip(1)', 'vflip(1)', p=(0.9, 0.2))", "p must sum to at most 1, got (0.9, 0.2)"),
        ("one_of('flip(1)', 'vflip(1)', p=('x', 0.2))", "each p must be a number in [0, 1], got 'x'"),
        ("one_of('flip(1)', 3)", "way '3': expected a call such as name(…), got '3'"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(call, message):
    with pytest.raises(RecipeError) as error:
        plan_views({"a": ViewSpec(**{"from": "image", "make": call})})
    text = str(error.value)
    assert "\n" not in text
    assert message in text
