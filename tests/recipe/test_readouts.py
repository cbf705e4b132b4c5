"""`mix(h(b), like=a)`: a clean view's readouts mixed as another view's images were; soft targets; `swapped=True`."""

import numpy as np
import pytest
import torch

from manyview.errors import RecipeError
from manyview.load import parse_recipe
from manyview.step import Step

C = 10
TEXT = """
seed: 4
views:
  a: {from: image, make: "pad_crop(16, padding=2) | mixup(1.0, per='image')"}
  b: {from: image, make: "pad_crop(16, padding=2) | flip(0.5)"}
  cut: {from: image, make: "cutmix(1.0)"}
  heavy: {from: a, make: grayscale(0.5)}
  twice: {from: image, make: "mixup | cutmix"}
  r: {from: b, orbit: rotation2}
  turned: {from: image, make: "mixup(1.0, per='image')", orbit: rotation2}
  many: {from: image, make: "flip(0.5) | mixup(1.0, per='image')", count: 2}
  three: {from: image, make: "mixup(1.0)", count: 3}
  test: {from: image, make: resize(16)}
branches: {net: {backbone: cresnet20, normalize: half, joint: "linear(h, orbit=r)"}}
relations: [RELATIONS]
train: {epochs: 2}
"""
LABELS = torch.arange(6) * 3 % C
BATCH = {"index": torch.arange(6) + 40, "epoch": 1}


def photos(count=6, size=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)


def recipe_of(*lines):
    return parse_recipe(TEXT.replace("RELATIONS", ", ".join(f'"{line}"' for line in lines)))


def step_of(*lines):
    """In evaluation mode, so that rows pass the network independently."""
    return Step(recipe_of(*lines), C).eval()


def features(step, view):
    with torch.no_grad():
        return step.main.read(view.pixels, ["h"])["h"].double().numpy()


def mixed_by_hand(rows, lam, partner):
    return np.stack([float(lam[i]) * rows[i] + (1 - float(lam[i])) * rows[int(partner[i])] for i in range(len(rows))])


@pytest.mark.parametrize(("like", "op"), [("a", "mixup"), ("cut", "cutmix"), ("many.1", "mixup")])
def test_tied_mixup_is_its_formula(like, op):
    """S(h_a, lam h_b + (1 - lam) h_b[partner]), with S the mean squared error."""
    step = step_of(f"similarity(h({like}), mix(h(b), like={like}), weight=3)")
    views = step.views(photos(), LABELS, **BATCH)
    base, _, member = like.partition(".")
    rows = slice(int(member), None, 2) if member else slice(None)
    drawn = {name: value[rows] for name, value in views[base].params[op].items()}
    left, right = features(step, views[base])[rows], features(step, views["b"])
    expected = 3 * np.mean((left - mixed_by_hand(right, drawn["lam"], drawn["partner"])) ** 2)
    out = step(photos(), LABELS, **BATCH)
    assert out["terms"]["similarity"].item() == pytest.approx(expected, rel=1e-4)
    assert step(views)["loss"].item() == out["loss"].item()


def test_what_is_mixed_in_gets_its_share_of_the_gradient():
    step = step_of("similarity(h(a), mix(h(b), like=a))")
    views = step.views(photos(), LABELS, **BATCH)
    drawn = views["a"].params["mixup"]
    h_a, h_b = (torch.from_numpy(features(step, views[name])) for name in "ab")
    gradient = np.zeros(h_b.shape)  # of mean (h_a - mixed)^2 by h_b, row by row
    mixed = torch.from_numpy(mixed_by_hand(h_b.numpy(), drawn["lam"], drawn["partner"]))
    outer = (2 * (mixed - h_a) / h_a.numel()).numpy()
    for i in range(6):
        lam, j = float(drawn["lam"][i]), int(drawn["partner"][i])
        gradient[i] += lam * outer[i]
        gradient[j] += (1 - lam) * outer[i]
    seen = []

    def keep(module, inputs, output):
        output.retain_grad()
        seen.append(output)

    step.main.backbone.register_forward_hook(keep)
    step(views)["loss"].backward()
    (h,) = seen  # both views in one pass, a before b
    np.testing.assert_allclose(h.grad[6:].double().numpy(), gradient, atol=1e-6)
    stopped = step_of("similarity(h(a), stop(mix(h(b), like=a)))")
    assert stopped(views)["loss"].item() == pytest.approx(step(views)["loss"].item())
    stopped(views)["loss"].backward()
    assert any(parameter.grad is not None for parameter in stopped.parameters())


@pytest.mark.parametrize(
    ("read", "like", "members"), [("r", "a", 2), ("r", "turned", 2), ("many", "a", 2), ("r", "many", 2)]
)
def test_members_are_mixed_with_members(read, like, members):
    step = step_of(f"similarity(h({read}), mix(h({read}), like={like}))")
    views = step.views(photos(), LABELS, **BATCH)
    h, drawn = features(step, views[read]), views[like].params["mixup"]
    mixed = np.zeros(h.shape)
    for i in range(6):
        for t in range(members):
            row = i * members + t
            at = row if len(drawn["lam"]) == len(h) else i
            lam, j = float(drawn["lam"][at]), int(drawn["partner"][at])
            mixed[row] = lam * h[row] + (1 - lam) * h[j * members + t]
    out = step(photos(), LABELS, **BATCH)
    assert out["terms"]["similarity"].item() == pytest.approx(np.mean((h - mixed) ** 2), rel=1e-4)


def test_cross_entropy_takes_soft_targets_beside_labels():
    """1/2 (sum over both partners of lam CE) for the mixed view, plain CE for the clean one; AgMax's formula."""
    step = step_of("cross_entropy(logits(a), logits(b))")
    views = step.views(photos(), LABELS, **BATCH)
    drawn = views["a"].params["mixup"]
    with torch.no_grad():
        log_a, log_b = (
            step.main.read(views[name].pixels, ["logits"])["logits"].double().log_softmax(dim=1).numpy()
            for name in "ab"
        )
    terms = []
    for i in range(6):
        lam, j, y = float(drawn["lam"][i]), int(drawn["partner"][i]), LABELS.numpy()
        terms += [-lam * log_a[i, y[i]] - (1 - lam) * log_a[i, y[j]], -log_b[i, y[i]]]
    assert step(photos(), LABELS, **BATCH)["loss"].item() == pytest.approx(np.mean(terms), rel=1e-5)


def test_the_target_of_mixed_readouts_is_mixed_with_them():
    step, plain = step_of("cross_entropy(mix(logits(b), like=a))"), step_of("cross_entropy(logits(b))")
    views = step.views(photos(), LABELS, **BATCH)
    drawn = views["a"].params["mixup"]
    with torch.no_grad():
        logits = step.main.read(views["b"].pixels, ["logits"])["logits"].double().numpy()
    mixed = torch.from_numpy(mixed_by_hand(logits, drawn["lam"], drawn["partner"])).log_softmax(dim=1).numpy()
    soft = mixed_by_hand(np.eye(C)[LABELS.numpy()], drawn["lam"], drawn["partner"])
    assert step(views)["loss"].item() == pytest.approx(-(soft * mixed).sum(axis=1).mean(), rel=1e-5)
    assert step(views)["loss"].item() != pytest.approx(plain(views)["loss"].item())


def test_the_view_that_is_mixed_like_is_drawn_even_if_nothing_reads_it():
    step = step_of("similarity(h(b), mix(h(b), like=many.1))")
    assert step.rendered_views == ["b", "many"]
    assert step.rows_per_image == 1
    only = step.views(photos(), LABELS, **BATCH, only=step.rendered_views)
    assert torch.equal(step(only)["loss"], step(photos(), LABELS, **BATCH)["loss"])


def test_scores_and_the_state_of_a_step_on_mixed_views():
    first, second = (Step(recipe_of("cross_entropy(logits(a), logits(cut))"), C) for _ in range(2))
    outs = [step(photos(), LABELS, **BATCH) for step in (first, second)]
    assert outs[0]["output"].shape == (6, C)
    assert torch.equal(outs[0]["loss"], outs[1]["loss"])
    assert outs[0]["z"][0].isfinite().all()
    first.eval()
    assert first.predict(photos(1))["logits"].shape == (1, C)  # evaluation mixes nothing: one image will do


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("mix(h(b), like=b)", "mix(…, like=b): 'b' must have one mixup or cutmix among its own ops, has none"),
        (
            "mix(h(b), like=heavy)",
            "mix(…, like=heavy): 'heavy' must have one mixup or cutmix among its own ops, has none",
        ),
        (
            "mix(h(b), like=twice)",
            "mix(…, like=twice): 'twice' must have one mixup or cutmix among its own ops, has mixup and cutmix",
        ),
        ("mix(h(b), like=aa)", "unknown view 'aa'; did you mean 'a'? views: a, b, cut, heavy, many, r, three, "),
        ("mix(h(b), like=test)", "unknown view 'test'; views: a, b"),
        ("mix(h(b), like=many.2)", "'many' has members many.0 to many.1, not 'many.2'"),
        ("mix(h(b), like=a.0)", "'a' is a single view and has no member 'a.0'"),
        ("mix(h(b))", "mix takes a readout and a view, as in mix(h(b), like=a), got mix(h(b))"),
        ("mix(h(b), a)", "mix takes a readout and a view, as in mix(h(b), like=a), got mix(h(b), a)"),
        ("mix(h(b), like='a')", "mix takes a readout and a view, as in mix(h(b), like=a), got mix(h(b), like='a')"),
        (
            "mix(h(b), like=a, lam=1)",
            "mix takes a readout and a view, as in mix(h(b), like=a), got mix(h(b), like=a, lam=1)",
        ),
        ("mix(like=a)", "mix takes a readout and a view, as in mix(h(b), like=a), got mix(like=a)"),
    ],
)
def test_mix_is_checked_when_the_recipe_is_read(line, message):
    with pytest.raises(RecipeError) as error:
        recipe_of(f"similarity(h(a), {line})")
    assert str(error.value).startswith(f"relations.0: {message}")


@pytest.mark.parametrize(
    ("read", "like", "message"),
    [
        ("h(b)", "many", "'many' has 2 rows an image and h(b) has 1; name a member, as in like=many.0"),
        ("h(r)", "three", "'three' has 3 rows an image and h(r) has 2; name a member, as in like=three.0"),
    ],
)
def test_families_that_do_not_fit(read, like, message):
    line = f"similarity(h(a), mix({read}, like={like}))"
    with pytest.raises(RecipeError) as error:
        step_of(line)
    assert str(error.value) == f"relations.0: {line}: {message}"


def test_mixed_targets_have_no_joint_label():
    text = TEXT.replace("r: {from: b", "r: {from: a").replace("RELATIONS", "joint_cross_entropy(joint(r))")
    step = Step(parse_recipe(text), C)
    with pytest.raises(
        ValueError, match="joint_cross_entropy needs one label a row; mixed targets have no joint label"
    ):
        step(photos(), LABELS, **BATCH)


def test_reads_are_written_as_they_were_read():
    plan = recipe_of("similarity(stop(mix(h(b), like=many.1)), mix(stop(h(b)), like=a))").relation_plan[0]
    assert [str(read) for read in plan.reads] == ["stop(mix(h(b), like=many.1))", "mix(stop(h(b)), like=a)"]
    assert [read.views for read in plan.reads] == [("b", "many.1"), ("b", "a")]
    changed = parse_recipe(
        TEXT.replace("RELATIONS", '"similarity(h(a), mix(h(b), like=a))"'), "relations.similarity.weight=2"
    )
    assert changed.relations[0] == "similarity(h(a), mix(h(b), like=a), weight=2)"


# --------------------------------------------------------------------------------------------------------- swapped

BRANCHES = "cresnet20, normalize: half,"
LEARNING = (
    TEXT.replace(BRANCHES, f'{BRANCHES} forward: separate, z: "projector(h, 12)", p: "predictor(z, 6)", ')
    .replace("}\nrelations", "\n  teacher: ema(net, momentum=0.5)\nrelations")
    .replace("branches: {net: ", "branches:\n  net: ")
)


def learning(*lines):
    return parse_recipe(LEARNING.replace("RELATIONS", ", ".join(f'"{line}"' for line in lines)))


def value_and_gradients(*lines):
    step = Step(learning(*lines), C)
    out = step(photos(), LABELS, **BATCH)
    out["loss"].backward()
    gradients = {name: parameter.grad for name, parameter in step.named_parameters() if parameter.requires_grad}
    return out, gradients


@pytest.mark.parametrize(
    ("line", "other"),
    [
        ("cosine(p(b), toward=stop(z(cut)), weight=0.5)", "cosine(p(cut), toward=stop(z(b)), weight=0.5)"),
        ("cosine(p(b), toward=teacher.z(cut), weight=2)", "cosine(p(cut), toward=teacher.z(b), weight=2)"),
        ("cosine(p(r.0), toward=stop(z(r.1)))", "cosine(p(r.1), toward=stop(z(r.0)))"),
        ("cosine(p(r.1), toward=stop(z(b)))", "cosine(p(b), toward=stop(z(r.1)))"),
        ("cosine(p(r), toward=stop(z(many)))", "cosine(p(many), toward=stop(z(r)))"),
        ("cosine(p=p(a), toward=stop(z(b)))", "cosine(p=p(b), toward=stop(z(a)))"),
        (
            "cosine(p(a), toward=stop(mix(z(turned.0), like=a)))",
            "cosine(p(turned.0), toward=stop(mix(z(a), like=turned.0)))",
        ),
        (  # partners by mixup, and by cutmix
            "cosine(p(a), toward=stop(mix(z(cut), like=a)))",
            "cosine(p(cut), toward=stop(mix(z(a), like=cut)))",
        ),
        ("cosine(p(b), toward=stop(z(cut)), weight=random(1))", "cosine(p(cut), toward=stop(z(b)), weight=random(1))"),
        ("agmax(logits(a), logits(b), hidden=8)", None),
        (
            "distill(logits(a), toward=stop(logits(b)), temperature=2)",
            "distill(logits(b), toward=stop(logits(a)), temperature=2)",
        ),
    ],
)
def test_swapped_is_the_line_once_more_with_its_views_exchanged(line, other):
    swapped = line[:-1] + ", swapped=True)"
    once, one = value_and_gradients(swapped)
    (plan,) = learning(swapped).relation_plan
    assert len(plan.calls) == 2
    if other is None:  # a relation with a network of its own has one, and asks it twice
        assert list(once["terms"]) == ["agmax.entropy", "agmax.divergence"]
        return
    assert len(once["terms"]) == 1
    if "random" in line:  # one weight a step, drawn by the line's name: half of the sum of both is not to be had
        assert learning(swapped).relation_plan[0].weight == learning(line).relation_plan[0].weight
        line, other, swapped = (text.replace("random(1)", "1") for text in (line, other, swapped))
        once, one = value_and_gradients(swapped)
    twice, two = value_and_gradients(line, other)
    assert len(twice["terms"]) == 2
    torch.testing.assert_close(once["loss"], twice["loss"])
    largest = max(float(gradient.abs().max()) for gradient in two.values() if gradient is not None)
    assert largest > 0
    for name, gradient in two.items():
        assert (gradient is None) == (one[name] is None), name
        if gradient is not None:
            torch.testing.assert_close(one[name], gradient, rtol=1e-4, atol=1e-5 * largest, msg=name)


def test_swapped_is_not_the_line_twice():
    swapped, _ = value_and_gradients("cosine(p(b), toward=stop(z(cut)), swapped=True)")
    line, _ = value_and_gradients("cosine(p(b), toward=stop(z(cut)))")
    assert swapped["loss"].item() != pytest.approx(2 * line["loss"].item(), rel=1e-3)


def test_both_calls_of_a_swapped_line_count_among_what_is_read():
    recipe = learning("cosine(p(b), toward=teacher.z(cut), swapped=True)")
    (plan,) = recipe.relation_plan
    assert [f"{read.branch}.{read.name}({read.view})" for read in plan.all_reads] == [
        "net.p(b)",
        "teacher.z(cut)",
        "net.p(cut)",
        "teacher.z(b)",
    ]
    assert [str(read) for read in plan.reads] == ["p(b)"]
    assert {key: str(read) for key, read in plan.named_reads.items()} == {"toward": "teacher.z(cut)"}
    step = Step(recipe, C)
    assert step.rendered_views == ["b", "cut"]
    assert step.rows_per_image == 4


@pytest.mark.parametrize("text", ["swapped=False", ""])
def test_not_swapped(text):
    (plan,) = learning(f"cosine(p(b), toward=stop(z(cut)), {text})".replace(", )", ")")).relation_plan
    assert len(plan.calls) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "cosine(p(a), toward=stop(z(a)), swapped=True)",
            "cosine: swapped=True exchanges two views; this line reads a",
        ),
        (
            "jensen_shannon(logits(a), logits(b), logits(cut), swapped=True)",
            "jensen_shannon: swapped=True exchanges two views; this line reads a, b, cut",
        ),
        (
            "cosine(p(b), toward=stop(mix(z(cut), like=a)), swapped=True)",
            "cosine: swapped=True exchanges two views; this line reads b, cut, a",
        ),
        (
            "nt_xent(z(a), z(b), swapped=True)",
            "nt_xent: with its views exchanged this line is the same; drop swapped=True, or double the weight",
        ),
        ("cosine(p(a), toward=stop(z(b)), swapped=1)", "cosine: swapped is True or False, got 1"),
        ("cosine(p(a), toward=stop(z(b)), swapped='yes')", "cosine: swapped is True or False, got 'yes'"),
        ("cosine(p(a), toward=stop(z(b)), swapped=None)", "cosine: swapped is True or False, got None"),
        ("cosine(p(a), toward=stop(z(b)), swapped=yes)", "cosine: swapped is True or False, got yes"),
        ("cosine(p(a), toward=stop(z(b)), swapped=z(b))", "cosine: swapped is True or False, got z(b)"),
        (
            "cosine(p(b), toward=stop(mix(z(a), like=a)), swapped=True)",
            "mix(…, like=b): 'b' must have one mixup or cutmix among its own ops, has none",
        ),
    ],
)
def test_what_cannot_be_swapped(line, message):
    with pytest.raises(RecipeError) as error:
        learning(line)
    assert str(error.value) == f"relations.0: {message}"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "distill(logits(b), toward=stop(aggregate(joint(r))), swapped=True)",
            "head 'joint' tells 2 members of 'r' apart, but 'b' has 1",
        ),
    ],
)
def test_a_line_whose_exchange_does_not_fit(line, message):
    with pytest.raises(RecipeError) as error:
        Step(learning(line), C)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
