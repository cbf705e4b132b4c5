"""Views: planned from a recipe, drawn for each image alone, rendered from the source or from one another."""

import pytest
import torch
from pydantic import ValidationError

from manyview.errors import RecipeError
from manyview.views.draws import Draws
from manyview.views.engine.render import sizes_of
from manyview.views.ops import OPS
from manyview.views.ops.orbit import ORBITS, orbit
from manyview.views.plan import ViewSpec, plan_views, with_sources
from manyview.views.view import draw_views, interleave, member_view, members_of, render_views, sample_views, to_device

STANDARD = "crop(32, scale=(0.2, 1)) | flip(0.5) | jitter(0.4, 0.4, 0.4, 0.1, p=0.8) | grayscale(0.2)"
DSSL = {
    "a": {"from": "image", "make": STANDARD},
    "b": {"like": "a"},
    "heavy_a": {"from": "a", "make": "randaugment(2, 9)"},
    "heavy_b": {"from": "b", "make": "randaugment(2, 9)"},
}
MAKE = {"from": "image", "make": "crop(8) | flip(0.5)"}
ROTATED = {"from": "image", "make": "crop(8)", "orbit": "rotation"}
FAMILY = {"from": "image", "make": "crop(8) | flip(0.5) | jitter(0.4, 0.4)", "count": 3}


def plan(**views):
    return plan_views({name: ViewSpec(**spec) for name, spec in views.items()})


def photos(count=6, size=(40, 48), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, *size), generator=generator, dtype=torch.uint8)


def see(planned, images, index=None, target=None, epoch=3, seed=7, compiled=True):
    index = range(len(images)) if index is None else index
    params = sample_views(planned, sizes_of(images), index, epoch, seed)
    return render_views(planned, images, params, target, compiled=compiled)


def same_view(a, b):
    return torch.equal(a.images, b.images) and all(
        torch.equal(values, b.params[op][name]) for op, drawn in a.params.items() for name, values in drawn.items()
    )


def rows_of(view, at):
    return [view.images[at]] + [values[at] for drawn in view.params.values() for values in drawn.values()]


def test_the_plan_of_dssl():
    planned = plan(**DSSL)
    assert list(planned) == ["a", "b", "heavy_a", "heavy_b"]
    assert [view.source for view in planned.values()] == ["image", "image", "a", "b"]
    assert [op.name for op in planned["b"].ops] == ["crop", "flip", "jitter", "grayscale"]
    assert [op.op for op in planned["b"].ops] == [op.op for op in planned["a"].ops]
    assert [op.owner for op in planned["b"].ops] == [("b", op.name) for op in planned["a"].ops]
    assert planned["heavy_a"].ops[0].op == OPS["randaugment"](2, 9)
    assert all(view.members == 1 and not view.is_family for view in planned.values())


def test_dssl_pixels_are_the_ops_in_turn_by_hand():
    images, target = photos(), torch.arange(6)
    wide = {"from": "a", "make": "resize((20, 60)) | randaugment(3, 30)"}  # magnitudes that depend on the size seen
    planned = plan(**DSSL, wide=wide)
    views = see(planned, images, target=target, compiled=False)
    made = {"image": (images, sizes_of(images))}
    for name, view in planned.items():
        by_hand, sizes = made[view.source]
        for op in view.ops:
            params = op.op.sample(Draws(7, 3, range(6), name, op.name), sizes)
            assert all(torch.equal(params[key], views[name].params[op.name][key]) for key in params)
            by_hand, sizes = op.op.render(by_hand, params), op.op.output_size(sizes)
        made[name] = by_hand, sizes
        assert torch.equal(views[name].images, by_hand)
        assert torch.equal(views[name].target, target)
        assert views[name].images.shape == views[name].pixels.shape == (6, 3, *sizes[0].tolist())
        assert views[name].pixels.dtype == torch.float32
        assert 0 <= views[name].pixels.min() <= views[name].pixels.max() <= 1
    assert list(views) == ["a", "b", "heavy_a", "heavy_b", "wide"]


def test_alike_views_draw_their_own():
    views = see(plan(**DSSL), photos(200))
    for op, key in (("crop", "box"), ("jitter", "factors")):
        assert (views["a"].params[op][key] != views["b"].params[op][key]).any(dim=1).all()
    agree = (views["a"].params["flip"]["applied"] == views["b"].params["flip"]["applied"]).double().mean()
    assert 0.35 < agree < 0.65


@pytest.mark.parametrize("same", [("a.crop", "a.flip"), ("crop", "flip"), ("crop", "a.flip")])
def test_same_shares_draws_bit_by_bit_and_leaves_the_rest(same):
    planned = plan(a=DSSL["a"], b={"like": "a", "same": same})
    views = see(planned, photos(50))
    for op in ("crop", "flip"):
        for key, values in views["a"].params[op].items():
            assert torch.equal(values, views["b"].params[op][key])
    assert (views["a"].params["jitter"]["factors"] != views["b"].params["jitter"]["factors"]).any(dim=1).all()
    assert not torch.equal(views["a"].images, views["b"].images)


def test_same_needs_no_like_and_passes_on():
    geometry = {"from": "image", "make": "crop(8) | flip(0.5)"}
    planned = plan(
        a=geometry,
        b={**geometry, "make": "crop(8) | grayscale(0.5) | flip(0.5)", "same": ("a.crop", "a.flip")},
        c={"like": "b", "same": ("b.crop", "flip")},
        d={**geometry, "make": "flip(0.5) | flip(0.5)", "same": ("a.flip",)},
    )
    assert [op.owner for op in planned["c"].ops] == [("a", "crop"), ("c", "grayscale"), ("a", "flip")]
    assert [op.owner for op in planned["d"].ops] == [("a", "flip"), ("d", "flip_again")]
    views = see(planned, photos(40))
    assert torch.equal(views["a"].params["crop"]["box"], views["c"].params["crop"]["box"])
    assert not torch.equal(views["d"].params["flip"]["applied"], views["d"].params["flip_again"]["applied"])


def test_an_op_written_again_has_a_name_of_its_own():
    planned = plan(a={"from": "image", "make": "flip(0.5) | vflip | flip(0.5) | flip(1)"})
    assert [op.name for op in planned["a"].ops] == ["flip", "vflip", "flip_again", "flip_again3"]


@pytest.mark.parametrize("name", ORBITS)
def test_orbit_families_hold_the_members_of_each_image_together(name):
    images, target = photos(), torch.arange(6)
    planned = plan(r={**ROTATED, "orbit": name}, plain={"from": "image", "make": "crop(8)", "same": ("r.crop",)})
    views = see(planned, images, target=target)
    members, m = orbit(views["plain"].images, name), planned["r"].members
    assert m == members.shape[1] == views["r"].members
    for i in range(6):
        for t in range(m):
            assert torch.equal(views["r"].images[i * m + t], members[i, t])
            assert torch.equal(views["r"].params["crop"]["box"][i * m + t], views["plain"].params["crop"]["box"][i])
    assert torch.equal(views["r"].target, target.repeat_interleave(m))


@pytest.mark.parametrize("member", [0, 1, 3])
def test_a_view_from_a_member_sees_that_member(member):
    planned = plan(r=ROTATED, s={"from": f"r.{member}", "make": "randaugment(1, 9)"})
    target = torch.rand(6, 10)
    views = see(planned, photos(), target=target)
    source = views["r"].images.view(6, 4, 3, 8, 8)[:, member]
    assert torch.equal(views["s"].images, OPS["randaugment"](1, 9).render(source, views["s"].params["randaugment"]))
    assert torch.equal(views["s"].target, target)
    assert torch.equal(members_of(views["r"], member)[0], source)
    alone = member_view(views["r"], member)
    assert torch.equal(alone.images, source)
    assert torch.equal(alone.target, target)
    assert torch.equal(alone.params["crop"]["box"], views["r"].params["crop"]["box"][member::4])
    assert alone.members == 1


def test_members_of_a_count_draw_as_lone_views_would():
    images, target = photos(30), torch.arange(30)
    planned = plan(c=FAMILY)
    view = see(planned, images, target=target, compiled=False)["c"]
    assert view.images.shape == (90, 3, 8, 8)
    assert torch.equal(view.target, target.repeat_interleave(3))
    for t in range(3):
        lone, sizes = images, sizes_of(images)
        for op in planned["c"].ops:
            params = op.op.sample(Draws(7, 3, range(30), f"c.{t}", op.name), sizes)
            for key, values in params.items():
                assert torch.equal(view.params[op.name][key][t::3], values)
            lone, sizes = op.op.render(lone, params), op.op.output_size(sizes)
        assert torch.equal(view.images[t::3], lone)
    boxes = view.params["crop"]["box"].view(30, 3, 4)
    assert (boxes[:, 0] != boxes[:, 1]).any(dim=1).all()
    assert (boxes[:, 1] != boxes[:, 2]).any(dim=1).all()


def test_a_view_like_a_family_is_a_family():
    planned = plan(c=FAMILY, d={"like": "c"}, r=ROTATED, q={"like": "r", "same": ("crop",)}, e={"from": "d.2"})
    assert (planned["d"].count, planned["q"].orbit) == (3, "rotation")
    views = see(planned, photos())
    assert torch.equal(views["r"].images, views["q"].images)
    assert torch.equal(views["e"].images, views["d"].images[2::3])
    assert not torch.equal(views["c"].images, views["d"].images)


def test_a_count_of_one_is_still_a_family():
    planned = plan(c={**FAMILY, "count": 1}, d={"from": "c.0"})
    assert planned["c"].is_family
    assert planned["c"].members == 1
    views = see(planned, photos())
    assert torch.equal(views["c"].images, views["d"].images)


EVERYTHING = {**DSSL, "r": ROTATED, "c": FAMILY, "d": {"from": "c.1", "make": "cutout(3)", "count": 2}}


@pytest.mark.parametrize("batch", [[0], [5, 2], [3, 3, 1], [5, 4, 3, 2, 1, 0]], ids=str)
def test_the_batch_that_an_image_is_in_changes_nothing(batch):
    """In any batch and order, and however many views are made beside it."""
    images, planned = photos(), plan(**EVERYTHING)
    whole, part = see(planned, images), see(planned, images[batch], batch)
    for name, view in whole.items():
        at = [i * view.members + t for i in batch for t in range(view.members)]
        ours = rows_of(part[name], slice(None))
        assert all(torch.equal(a, b) for a, b in zip(rows_of(view, at), ours, strict=True))
        alone = {needed: planned[needed] for needed in with_sources(planned, [name])}
        assert same_view(see(alone, images)[name], view)


def test_epoch_seed_and_index_change_the_draws():
    planned, images = plan(**DSSL), photos()
    box = see(planned, images)["a"].params["crop"]["box"]
    for other in ({"epoch": 4}, {"seed": 8}, {"index": range(6, 12)}):
        assert (see(planned, images, **other)["a"].params["crop"]["box"] != box).any(dim=1).all()


def test_images_of_unlike_sizes_are_seen_as_they_are_alone():
    sizes = [(40, 48), (33, 47), (64, 64), (20, 90)]
    images = [photos(1, size, seed=i)[0] for i, size in enumerate(sizes)]
    unlike_first = {"from": "image", "make": "flip(0.5) | resize(20) | jitter(0.4) | crop(8)"}
    planned = plan(**EVERYTHING, late=unlike_first, later={"from": "late", "make": "grayscale(0.5)"})
    assert sizes_of(images).tolist() == [list(size) for size in sizes]
    together = see(planned, images, target=torch.arange(4))
    for i, image in enumerate(images):
        for name, alone in see(planned, [image], [i]).items():
            at = slice(i * alone.members, (i + 1) * alone.members)
            ours = rows_of(together[name], at)
            assert all(torch.equal(a, b) for a, b in zip(ours, rows_of(alone, slice(None)), strict=True))
            tensor = see(planned, image[None], [i])[name]
            assert torch.equal(tensor.images, alone.images)


def test_unlike_sizes_that_remain_are_refused():
    images = [photos(1, size)[0] for size in ((40, 48), (33, 47))]
    for make in ("resize(20)", "flip(0.5)", None):
        planned = plan(a={"from": "image", "make": make})
        with pytest.raises(
            ValueError, match="view 'a' leaves images of unlike sizes; begin it with a crop or a resize"
        ):
            see(planned, images)


def test_inputs_are_left_alone():
    images, planned, target = photos(), plan(**EVERYTHING), torch.arange(6)
    params = sample_views(planned, sizes_of(images), range(6), 0, 0)
    kept = (
        images.clone(),
        {v: {o: {k: x.clone() for k, x in ps.items()} for o, ps in d.items()} for v, d in params.items()},
    )
    first, again = (render_views(planned, images, params, target) for _ in range(2))
    assert torch.equal(images, kept[0])
    assert torch.equal(target, torch.arange(6))
    for view, drawn in kept[1].items():
        assert same_view(first[view], again[view])
        assert list(params[view]) == list(drawn)
        for op, values in drawn.items():
            assert all(torch.equal(values[key], params[view][op][key]) for key in values)


def test_floats_and_grey_levels_give_the_same_draws_and_nearly_the_same_pixels():
    planned, images = plan(a=DSSL["a"], test={"from": "image", "make": "center_crop(32)"}), photos()
    levels, floats = see(planned, images), see(planned, images.float() / 255)
    assert torch.equal(levels["test"].images, images[:, :, 4:36, 8:40])
    for name in planned:
        apart = (levels[name].pixels - floats[name].pixels).abs()
        assert (apart <= 2.01 / 255).double().mean() >= 0.999
    assert levels["a"].images.dtype == torch.uint8
    assert floats["a"].images.dtype == torch.float32


def test_with_sources_gives_what_is_needed_in_the_plans_order():
    planned = plan(**EVERYTHING, e={"from": "d.0"}, test={"from": "image", "make": "resize(8)"})
    assert with_sources(planned, ["heavy_a"]) == ["a", "heavy_a"]
    assert with_sources(planned, ["e"]) == ["c", "d", "e"]
    assert with_sources(planned, {"r.2", "heavy_b", "a"}) == ["a", "b", "heavy_b", "r"]
    assert with_sources(planned, ["test"]) == ["test"]
    assert with_sources(planned, []) == []
    assert with_sources(planned, planned) == list(planned)


def test_interleave_puts_member_t_of_image_i_in_row_i_m_plus_t():
    parts = [torch.arange(4) * 10 + t for t in range(3)]
    assert interleave(parts).tolist() == [i * 10 + t for i in range(4) for t in range(3)]


def test_an_empty_batch_gives_empty_views():
    planned = plan(**EVERYTHING, m={"from": "image", "make": "center_crop(16)"})
    views = see(planned, photos()[:0], target=torch.zeros(0, 10))
    for name, view in see(planned, photos()).items():
        assert views[name].images.shape == (0, *view.images.shape[1:])
        assert views[name].target.shape == (0, 10)


TEST = {"from": "image", "make": "resize(10) | center_crop(8)"}
REFUSED = [
    ({}, r"^views: at least one view is needed"),
    ({"test": TEST}, r"^views: at least one view is needed"),
    ({"image": MAKE}, r"^views\.image: a view's name is a word other than 'image'"),
    ({"a b": MAKE}, r"^views\.a b: a view's name is a word"),
    ({"a.b": MAKE}, r"^views\.a\.b: a view's name is a word"),
    ({"a": {"make": "flip"}}, r"^views\.a: give 'from' \(image, unlabeled, or a view above\) or 'like'"),
    ({"a": {**MAKE, "make": "crp(8)"}},
     r"^views\.a\.make: unknown op 'crp'; did you mean 'crop'\? ops: crop, pad_crop, color, … "
     r"\(docs/reference.md has all 39\)$"),
    ({"a": {**MAKE, "make": "crop(8, sclae=1)"}},
     r"^views\.a\.make: crop: unknown argument 'sclae'; did you mean 'scale'\?"),
    ({"a": {**MAKE, "make": "crop()"}}, r"^views\.a\.make: crop\(\): missing .*'size'"),
    ({"a": {**MAKE, "make": "flip(2)"}}, r"^views\.a\.make: flip\(2\): p must be a probability"),
    ({"a": {**MAKE, "make": "crop(8"}}, r"^views\.a\.make: cannot read"),
    ({"a": {**MAKE, "make": ""}}, r"^views\.a\.make: expected a call"),
    ({"a": {"from": "b"}, "b": MAKE}, r"^views\.a\.from: 'b' is declared below; a view derives from one above it"),
    ({"a": {"like": "b"}, "b": MAKE}, r"^views\.a\.like: 'b' is declared below"),
    ({"strong": MAKE, "b": {"from": "stong"}},
     r"^views\.b\.from: unknown view 'stong'; did you mean 'strong'\? views: image, strong, unlabeled$"),
    ({"a": MAKE, "b": {"like": "c"}}, r"^views\.b\.like: unknown view 'c'"),
    *[({"a": MAKE, "b": {"like": "a", key: value}},
       r"^views\.b: 'like' takes its ops from a; drop make, orbit and count")
      for key, value in (("make", "flip"), ("orbit", "rotation"), ("count", 2))],
    ({"a": MAKE, "b": {"like": "a", "from": "c"}}, r"^views\.b\.from: unknown view 'c'"),
    ({"a": MAKE, "b": {"like": "a", "from": "b"}}, r"^views\.b\.from: a view cannot derive from itself"),
    ({"a": MAKE, "c": FAMILY, "b": {"like": "a", "from": "c"}}, r"^views\.b\.from: 'c' is a family of 3; name"),
    ({"a": {**ROTATED, "count": 2}}, r"^views\.a: an orbit fixes the number of its members; drop count"),
    ({"a": {**MAKE, "orbit": "rotaton"}}, r"^views\.a\.orbit: unknown orbit 'rotaton'; did you mean 'rotation'\?"),
    ({"r": ROTATED, "b": {"from": "r"}}, r"^views\.b\.from: 'r' is a family of 4; name a member, as in r\.0"),
    ({"c": FAMILY, "b": {"from": "c"}}, r"^views\.b\.from: 'c' is a family of 3; name a member, as in c\.0"),
    ({"r": ROTATED, "b": {"from": "r.4"}}, r"^views\.b\.from: 'r' has members r\.0 to r\.3, not 'r\.4'"),
    ({"r": ROTATED, "b": {"from": "r.-1"}}, r"^views\.b\.from: 'r' has members r\.0 to r\.3"),
    ({"r": ROTATED, "b": {"from": "r.0.1"}}, r"^views\.b\.from: 'r' has members r\.0 to r\.3"),
    ({"r": ROTATED, "b": {"from": "r.x"}}, r"^views\.b\.from: 'r' has members r\.0 to r\.3"),
    ({"a": MAKE, "b": {"from": "a.0"}}, r"^views\.b\.from: 'a' is a single view and has no member 'a\.0'"),
    ({"a": {**MAKE, "same": ("flip",)}}, r"^views\.a\.same: say whose draws 'flip' shares, as in a\.flip"),
    ({"a": MAKE, "b": {**MAKE, "same": ("c.flip",)}}, r"^views\.b\.same: unknown view 'c'.* views: a$"),
    ({"a": MAKE, "b": {"like": "a", "same": ("blur",)}},
     r"^views\.b\.same: view 'b' has no op 'blur'; ops: crop, flip$"),
    ({"a": {"from": "image"}, "b": {**MAKE, "same": ("a.flip",)}},
     r"^views\.b\.same: view 'a' has no op 'flip'; ops: none$"),
    ({"a": MAKE, "b": {**MAKE, "make": "flip(0.2)", "same": ("a.flip",)}},
     r"^views\.b\.same: 'flip' has other arguments in 'b' than in 'a'"),
    *[({"c": FAMILY, "d": {**FAMILY, "count": count, key: ("c.flip",)}},
       rf"^views\.d\.{key}: a view with a count draws for each member; share draws with one of that count")
      for count in (None, 2) for key in ("same", "anti")],
    *[({"a": MAKE, "u": {**MAKE, "from": "unlabeled", key: ("a.flip",)}},
       rf"^views\.u\.{key}: 'u' is of stream 'unlabeled' and 'a' of 'image', of unlike images$")
      for key in ("same", "anti")],
    ({"a": {**MAKE, "anti": ("flip",)}}, r"^views\.a\.anti: say whose draws 'flip' shares, as in a\.flip"),
    ({"a": MAKE, "b": {"like": "a", "anti": ("blur",)}}, r"^views\.b\.anti: view 'b' has no op 'blur'; ops: crop"),
    ({"a": MAKE, "b": {"like": "a", "same": ("flip",), "anti": ("a.flip",)}},
     r"^views\.b\.anti: 'flip' is told twice whose draws it shares; once is enough$"),
    *[({"a": {"from": "image", "make": make}, "b": {"like": "a", "anti": (make.partition("(")[0],)}},
       r"^views\.b\.anti: '\w+' draws nothing that has an opposite; ops that do: affine, autoaugment, .*, vflip$")
      for make in ("rotate90", "cutmix", "mixup", "resize(8)", "center_crop(8)", "augmix", "one_of('flip', 'vflip')")],
    ({"a": MAKE, "test": MAKE}, r"^views\.test: the test view draws nothing"),
    ({"a": MAKE, "test": {"like": "a"}}, r"^views\.test: the test view draws nothing"),
    ({"a": MAKE, "test": {"from": "a", "make": "resize(8)"}}, r"^views\.test: the test view draws nothing"),
    ({"a": MAKE, "test": {**TEST, "orbit": "rotation"}}, r"^views\.test: the test view draws nothing"),
    pytest.param({"test": TEST, "a": {"from": "test"}}, r"^views\.a\.from: (?!.*declared below)"),
    pytest.param({"a": {"from": "a"}}, r"^views\.a\.from: (?!.*declared below)"),
    pytest.param({"a": {"from": "image.0"}}, r"^views\.a\.from: (?!.*did you mean 'image')"),
    pytest.param({"a": MAKE, "b": {"from": "a."}}, r"^views\.b\.from: "),
    pytest.param({"r": ROTATED, "b": {"from": "r.²"}}, r"^views\.b\.from: "),
    pytest.param({"r": ROTATED, "b": {"from": "r.00"}}, r"^views\.b\.from: "),
    pytest.param({"lambda": MAKE}, r"^views\.lambda: "),
]  # fmt: skip


@pytest.mark.parametrize(("views", "message"), REFUSED, ids=lambda value: str(value)[:60])
def test_plans_that_cannot_be_meant_are_refused(views, message):
    with pytest.raises(RecipeError, match=message):
        plan(**views)


@pytest.mark.parametrize(
    "spec",
    [{**MAKE, "mak": "flip"}, {**MAKE, "count": 0}, {**MAKE, "same": "flip"}, {**MAKE, "anti": "flip"}, {"from": 3}],
)
def test_keys_and_types_are_checked(spec):
    with pytest.raises(ValidationError):
        ViewSpec(**spec)


@pytest.mark.slow(reason="the ops of many views are traced")
def test_rendering_is_one_graph():
    """As `train.compile` asks for on devices: nothing in a plan breaks the graph, or asks a device for a number."""
    heavy = {"from": "a", "make": "randaugment(2, 9) | cutout(8) | soften | mixup(0.2)"}
    family = {"from": "image", "make": "crop(16) | augmix | soften(4)", "count": 3}
    planned = plan(**DSSL, mixed=heavy, r={"from": "b", "orbit": "rot_color_perm6"}, c=family)
    images = photos()
    params = sample_views(planned, sizes_of(images), range(6), 3, 7)
    plain = render_views(planned, images, params, torch.arange(6), classes=6, compiled=False)
    torch.compiler.reset()
    traced = torch.compile(render_views, fullgraph=True, backend="eager")
    graph = traced(planned, images, params, torch.arange(6), classes=6, compiled=False)
    for name in planned:
        assert torch.equal(graph[name].images, plain[name].images), name
        assert torch.equal(graph[name].target, plain[name].target), name


def test_programs_on_the_cpu_are_not_compiled_a_second_time():
    """`train.compile` hands over a compiled renderer, which cannot look into programs."""
    planned, images = plan(**DSSL), photos()
    traced = torch.compile(render_views, fullgraph=True, backend="eager")
    ours = draw_views(planned, images, None, range(6), 3, 7, renderer=traced)
    plain = see(planned, images)
    for name in planned:
        assert same_view(ours[name], plain[name])


def test_rendering_on_a_device_asks_it_for_nothing():
    planned = plan(**DSSL, c={"from": "image", "make": "crop(16)", "count": 2})
    device = torch.device("meta")  # which has no numbers to give
    params = to_device(sample_views(planned, sizes_of(photos()), range(6), 3, 7), device)
    for name, view in render_views(planned, photos().to(device), params).items():
        assert view.images.device.type == "meta", name
        assert all(v.device.type == "meta" for drawn in view.params.values() for v in drawn.values()), name
