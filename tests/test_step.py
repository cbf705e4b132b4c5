"""The step: its terms are the pure functions of hand-made readouts; determinism, state, evaluation, precision."""

import copy
import io
import math
import random
import re
import shutil
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as torch_functional

from manyview import functional as F
from manyview.errors import ManyviewWarning, RecipeError
from manyview.load import load_recipe, parse_recipe
from manyview.optimize.optimize import fixed_parts
from manyview.relations.similarity import KINDS
from manyview.step import Step
from manyview.training.health import health
from manyview.views.draws import Draws
from manyview.views.ops import OPS

B, C = 6, 10
TINY = "vit_tiny_patch16_224(img_size=16, patch_size=8, depth=1, embed_dim=32, num_heads=2)"  # soon compiled
MAKE = "pad_crop(16, padding=2) | flip(0.5)"


def photos(count=B, size=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)


LABELS = torch.arange(B) * 3 % C
BATCH = {"index": torch.arange(B) + 100, "epoch": 2}


def packaged(name, *overrides, **options):
    """A step of a packaged recipe, on 16 px images and a small backbone."""
    first = next(iter(load_recipe(name).views))
    small = ("branches.net.backbone=cresnet20", f"views.{first}.make={MAKE}")
    return Step(load_recipe(name, *small, *overrides), C, **options)


def custom(*lines, views="", heads="", train="epochs: 10", backbone="cresnet20", **options):
    quoted = ", ".join(f'"{line}"' for line in lines)
    text = f"""
    views: {{a: {{from: image, make: "{MAKE}"}}, b: {{like: a}}{views}}}
    branches: {{net: {{backbone: {backbone}, normalize: half{heads}}}}}
    relations: [{quoted}]
    train: {{{train}}}
    """
    return Step(parse_recipe(text), C, **options)


ORBIT = ", r: {from: a, orbit: rotation}"
JOINT = ', joint: "linear(h, orbit=r)"'


def by_hand(step, names):
    """h by view, from a copy of the backbone, on pixels normalised by hand, in one pass or one a view."""
    net = copy.deepcopy(step.main.backbone)
    views = step.views(photos(), LABELS, **BATCH)
    batches = [(views[name].pixels - step.main.mean) / step.main.std for name in names]
    if not step.main.spec.joint:
        return {name: net(batch) for name, batch in zip(names, batches, strict=True)}
    return dict(zip(names, net(torch.cat(batches)).split([len(batch) for batch in batches]), strict=True))


def head(step, name, h):
    return step.main.heads[name](h)


def assert_terms(step, expected):
    """The step's terms, weights included, and that the loss is their sum, to the bit."""
    out = step(photos(), LABELS, **BATCH)
    assert list(out["terms"]) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(out["terms"][name], value, rtol=1e-6, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")
    assert torch.equal(out["loss"], sum(out["terms"].values()))
    return out


# ------------------------------------------------------------------------------------------------ terms by hand


def test_baseline():
    step = packaged("baseline_cifar10")
    h = by_hand(step, ["a", "b"])
    logits = torch.cat([head(step, "logits", h["a"]), head(step, "logits", h["b"])])
    out = assert_terms(step, {"cross_entropy": torch_functional.cross_entropy(logits, LABELS.repeat(2))})
    torch.testing.assert_close(out["output"], logits[:B])
    assert not out["output"].requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_tied(kind):
    step = packaged("tied_cifar10", f"relations.similarity.kind={kind}", "relations.similarity.weight=3")
    h = by_hand(step, ["a", "b"])
    logits = torch.cat([head(step, "logits", h["a"]), head(step, "logits", h["b"])])
    expected = {
        "cross_entropy": torch_functional.cross_entropy(logits, LABELS.repeat(2)),
        "similarity": 3 * F.similarity(h["a"], h["b"], kind),
    }
    assert_terms(step, expected)


def test_agmax():
    step = packaged("agmax_cifar10")
    h = by_hand(step, ["a", "b"])
    a, b = head(step, "logits", h["a"]), head(step, "logits", h["b"])
    q = step.relations["agmax"].joint
    entropy, divergence = F.agmax(a, b, q(torch.cat([a, b], dim=1)), divergence_weight=4)
    expected = {
        "cross_entropy": torch_functional.cross_entropy(torch.cat([a, b]), LABELS.repeat(2)),
        "agmax.entropy": entropy,
        "agmax.divergence": divergence,
    }
    assert_terms(step, expected)["loss"].backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in q.parameters())


def test_jensen_shannon():
    step = packaged("jsd_cifar10")
    h = by_hand(step, ["clean", "m1", "m2"])
    logits = {view: head(step, "logits", value) for view, value in h.items()}
    expected = {
        "cross_entropy": torch_functional.cross_entropy(logits["clean"], LABELS),
        "jensen_shannon": 12 * F.jensen_shannon(logits["clean"], logits["m1"], logits["m2"]),
    }
    assert_terms(step, expected)


@pytest.mark.parametrize(("reduction", "factor"), [("mean", 1), ("sum", 4)])
def test_sla(reduction, factor):
    step = packaged("sla_cifar10", f"relations.joint_cross_entropy.reduction={reduction}")
    joint = head(step, "joint", by_hand(step, ["r"])["r"])
    value = F.joint_cross_entropy(joint, LABELS, 4)
    out = assert_terms(step, {"joint_cross_entropy": value * factor})
    # the progress line scores the upright image by the columns of member 0
    torch.testing.assert_close(out["output"], joint[::4, ::4])


def test_sla_with_self_distillation():
    step = packaged("sla_sd_cifar10", "relations.distill.temperature=2")
    h = by_hand(step, ["r"])["r"]
    joint, single = head(step, "joint", h), head(step, "logits", h[::4])
    expected = {
        "joint_cross_entropy": F.joint_cross_entropy(joint, LABELS, 4),
        "cross_entropy": torch_functional.cross_entropy(single, LABELS),
        "distill": F.distill(single, F.aggregate(joint, 4), 2.0),
    }
    assert_terms(step, expected)


def test_aggregated_scores_are_compared_with_one_label_an_image():
    step = custom("cross_entropy(aggregate(joint(r)))", views=ORBIT, heads=JOINT)
    joint = head(step, "joint", by_hand(step, ["r"])["r"])
    assert_terms(step, {"cross_entropy": torch_functional.cross_entropy(F.aggregate(joint, 4), LABELS)})


def test_sla_baseline_da():
    step = packaged("sla_da_cifar10")
    logits = head(step, "logits", by_hand(step, ["r"])["r"])
    expected = torch_functional.cross_entropy(logits, LABELS.repeat_interleave(4))
    torch.testing.assert_close(assert_terms(step, {"cross_entropy": expected})["output"], logits[::4])


def test_sla_baseline_mt():
    step = packaged("sla_mt_cifar10")
    h = by_hand(step, ["r"])["r"]
    expected = {
        "cross_entropy": torch_functional.cross_entropy(head(step, "logits", h), LABELS.repeat_interleave(4)),
        "orbit_cross_entropy": torch_functional.cross_entropy(head(step, "turn", h), torch.arange(4).repeat(B)),
    }
    assert_terms(step, expected)


def test_options_of_cross_entropy():
    step = custom(
        "cross_entropy(logits(a), smoothing=0.1)",
        "cross_entropy(logits(b), poly=2, weight=0.5)",
        "cross_entropy(logits(a), logits(b))",
    )
    h = by_hand(step, ["a", "b"])
    a, b = head(step, "logits", h["a"]), head(step, "logits", h["b"])
    smooth = torch.full((B, C), 0.01).scatter_(1, LABELS[:, None], 0.91)
    expected = {
        "cross_entropy": -(smooth * a.log_softmax(1)).sum(1).mean(),
        "cross_entropy_2": 0.5 * F.poly1_cross_entropy(b, LABELS, 2.0),
        "cross_entropy_3": torch_functional.cross_entropy(torch.cat([a, b]), LABELS.repeat(2)),
    }
    assert_terms(step, expected)


def test_soft_labels_reach_every_view():
    step = custom("cross_entropy(logits(a), logits(b))", "cross_entropy(logits(r))", views=ORBIT)
    soft = torch.rand(B, C, generator=torch.Generator().manual_seed(1)).softmax(1)
    h = by_hand(step, ["a", "b", "r"])
    logits = {view: head(step, "logits", value) for view, value in h.items()}

    def cross_entropy(scores, target):
        return -(target * scores.log_softmax(1)).sum(1).mean()

    out = step(photos(), soft, **BATCH)
    both = torch.cat([logits["a"], logits["b"]])
    torch.testing.assert_close(out["terms"]["cross_entropy"], cross_entropy(both, soft.repeat(2, 1)))
    family = soft.repeat_interleave(4, dim=0)
    torch.testing.assert_close(out["terms"]["cross_entropy_2"], cross_entropy(logits["r"], family))


def test_the_loss_is_the_sum_of_many_terms_to_the_bit():
    lines = [f"similarity(h(a), h(b), kind='{kind}', weight={0.37 * 3**n})" for n, kind in enumerate(KINDS)]
    step = custom("cross_entropy(logits(a))", *lines, "agmax(logits(a), logits(b))")
    out = step(photos(), LABELS, **BATCH)
    assert len(out["terms"]) == 10
    assert torch.equal(out["loss"], sum(out["terms"].values()))


def test_output_of_a_joint_head_read_at_a_member():
    step = custom("similarity(joint(r.2), joint(r.0))", "joint_cross_entropy(joint(r))", views=ORBIT, heads=JOINT)
    joint = head(step, "joint", by_hand(step, ["r"])["r"])
    out = step(photos(), LABELS, **BATCH)
    torch.testing.assert_close(out["output"], joint[2::4, 2::4])  # member 2, scored as member 2


def test_nothing_classifies():
    step = custom("similarity(h(a), h(b))")
    out = step(photos(), **BATCH)
    assert out["output"] is None
    assert step.classifier is None
    assert set(step.eval().predict(photos())) == {"h"}


def test_what_is_watched_are_the_features_of_two_views_without_gradient():
    step = custom("similarity(h(a), h(b))")
    h = by_hand(step, ["a", "b"])
    z = step(photos(), **BATCH)["z"]
    assert len(z) == 2
    for found, view in zip(z, "ab", strict=True):
        torch.testing.assert_close(found, h[view].detach())
        assert not found.requires_grad


@pytest.mark.parametrize(
    ("lines", "watched"),
    [
        (["joint_cross_entropy(joint(r))", "cross_entropy(logits(r.0))"], ["r.0"]),
        (["joint_cross_entropy(joint(r))", "cross_entropy(logits(a))"], ["a"]),
        (["similarity(h(r.0), h(r.1))", "joint_cross_entropy(joint(r))"], ["r.0", "r.1"]),
        (["joint_cross_entropy(joint(r))"], ["r"]),
    ],
)
def test_two_views_are_watched_together_where_both_have_a_row_an_image(lines, watched):
    step = custom(*lines, views=ORBIT, heads=JOINT).eval()  # BatchNorm, too, looks at each row by itself
    z = step(photos(), LABELS, **BATCH)["z"]
    assert [len(rows) for rows in z] == [B * (4 if view == "r" else 1) for view in watched]
    h = step.main(step.views(photos(), LABELS, **BATCH), [("h", view) for view in watched])
    for found, view in zip(z, watched, strict=True):
        torch.testing.assert_close(found, h["h", view].detach(), rtol=1e-4, atol=1e-5)
    assert math.isfinite(health(z)["effective_rank"])


# ------------------------------------------------------------------------------------------------ gradients


def gradients(step, loss):
    step.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in step.named_parameters() if p.grad is not None}


def test_stop_stops():
    step = custom("similarity(z(a), stop(z(b)))", heads=", z: 'projector(h, 8)'").eval()  # no batch statistics
    views = step.views(photos(), **BATCH)
    found = gradients(step, step(views)["loss"])
    fixed = step.main(views, [("z", "b")])["z", "b"].detach()
    expected = gradients(step, torch_functional.mse_loss(step.main(views, [("z", "a")])["z", "a"], fixed))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    free = custom("similarity(z(a), z(b))", heads=", z: 'projector(h, 8)'").eval()
    assert torch.equal(free(views)["loss"], step(views)["loss"])  # the value is the same, the gradient is not
    moved = gradients(free, free(views)["loss"])
    assert not torch.allclose(moved["branches.net.heads.z.0.weight"], found["branches.net.heads.z.0.weight"], rtol=0.1)


@pytest.mark.parametrize(
    ("line", "held"),
    [
        ("distill(logits(a), toward=stop(other(b)))", {"heads.other"}),  # DDP would wait for its gradients
        ("distill(logits(a), toward=stop(logits(b)))", set()),
        ("similarity(h(a), stop(h(b)))", set()),
    ],
)
def test_what_is_only_stopped_waits_for_no_gradient(line, held):
    step = custom(line, heads=', other: "linear(h)"')
    step(photos(), LABELS, **BATCH)["loss"].backward()
    for name, parameter in step.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), name
        assert parameter.requires_grad != any(part in name for part in held), name


DROPS = "cresnet20(drop_rate=0.5)"
TEACHER = """
views: {{a: {{from: image, make: "pad_crop(16, padding=2) | flip(0.5)"}}, b: {{like: a}}}}
branches:
  net: {{backbone: cresnet20, z: "projector(h, 8)", fixed: "projector(h, 8)"}}
  teacher: {teacher}
relations: [{lines}]
train: {{epochs: 10}}
"""
FIXED = {
    "a branch": ('"distill(net.logits(a), toward=stop(teacher.logits(a)))"', "branches.teacher."),
    "a branch, not its neighbour": (
        '"distill(net.logits(a), toward=stop(teacher.logits(a)))", "similarity(net.z(a), stop(teacher.z(b)))"',
        "branches.teacher.",
    ),
    "a head": (
        '"similarity(net.z(a), stop(net.fixed(b)))", "distill(net.logits(a), toward=stop(teacher.logits(a)))"',
        "branches.net.heads.fixed.",
    ),
}


def buffers(step, prefix):
    return {name: value.clone() for name, value in step.named_buffers() if name.startswith(prefix)}


@pytest.mark.parametrize("case", FIXED)
def test_what_is_only_stopped_looks_at_each_image_alone_and_stays(case):
    """A fixed teacher's answer depends on no other image of the batch, and its statistics of BatchNorm do not move."""
    lines, held = FIXED[case]
    text = TEACHER.format(teacher=f'{{backbone: "{DROPS}", z: "projector(h, 8)"}}', lines=lines)
    step = Step(parse_recipe(text), C).eval().train()
    fixed = dict(step.named_modules())[held.rstrip(".")]
    assert not any(module.training for module in fixed.modules())
    assert step.training
    assert step.branch("net").backbone.bn1.training
    before, others = buffers(step, held), buffers(step, "branches.net.backbone.")
    assert any("running_mean" in name for name in before)
    step(photos(), LABELS, **BATCH)
    for name, value in buffers(step, held).items():
        assert torch.equal(value, before[name]), name
    assert any(not torch.equal(value, others[name]) for name, value in buffers(step, "branches.net.backbone.").items())
    if held == "branches.teacher.":
        whole = step.branch("teacher").read(photos(), ["logits"])["logits"]
        two = step.branch("teacher").read(photos()[:2], ["logits"])["logits"]
        torch.testing.assert_close(whole[:2], two)


def test_a_follower_looks_in_training_mode_stopped_or_not():
    """As in MoCo's and BYOL's codes: see `ema.py`."""
    for target in ("teacher.z(b)", "stop(teacher.z(b))"):
        step = Step(
            parse_recipe(TEACHER.format(teacher="ema(net)", lines=f'"cosine(z(a), toward={target})"')), C
        ).train()
        assert all(module.training for module in step.branch("teacher").modules())


def test_parts_that_do_not_learn_are_held():
    text = TEACHER.format(teacher="ema(net)", lines='"cosine(z(a), toward=teacher.z(b))"')
    train = parse_recipe(text, "train.optimizer=\"sgd(lr=0.1, scale={'backbone': 0, 'z': 0.5})\"").train
    assert fixed_parts(train) == ["backbone"]
    step = Step(parse_recipe(text), C)
    step.hold(fixed_parts(train))
    step.train()
    assert not any(module.training for module in step.main.backbone.modules())
    assert all(module.training for module in step.main.heads.modules())
    assert all(module.training for module in step.branch("teacher").modules())


def test_both_sides_stopped_leave_no_gradient():
    step = custom("similarity(h(a), h(b), weight=0)", "similarity(stop(h(a)), stop(h(b)))")
    out = step(photos(), **BATCH)
    assert not out["terms"]["similarity_2"].requires_grad
    assert out["terms"]["similarity_2"] > 0


@pytest.mark.parametrize("toward", ["stop(aggregate(joint(r)))", "aggregate(joint(r))", "aggregate(stop(joint(r)))"])
def test_the_teacher_of_a_distillation_gets_no_gradient(toward):
    step = custom(f"distill(logits(r.0), toward={toward})", views=ORBIT, heads=JOINT)
    out = step(photos(), LABELS, **BATCH)
    out["loss"].backward()
    assert step.main.heads["joint"].weight.grad is None or not step.main.heads["joint"].weight.grad.any()
    assert step.main.heads["logits"].weight.grad.any()


# ------------------------------------------------------------------------------------------------ weights


def ratio(step, epoch=2):
    """The weight that entered, seen from outside: term / the same relation unweighted."""
    out = step(photos(), LABELS, index=BATCH["index"], epoch=epoch)
    return float(out["terms"]["similarity_2"].detach() / out["terms"]["similarity"].detach())


def scheduled(weight, **options):
    step = custom("similarity(h(a), h(b))", f"similarity(h(a), h(b), weight={weight})", **options)
    return step.eval()


def test_weights_follow_the_updates():
    step = scheduled("linear(4)", total_steps=8)
    found = []
    for _ in range(10):
        found.append(ratio(step))
        step.after_step()
    assert found == pytest.approx([min(4.0, 0.5 * n) for n in range(10)])
    step = scheduled("warmup(4, fraction=0.5)", total_steps=8)
    step.updates = 3
    assert ratio(step) == pytest.approx(3)


def test_weights_alternate():
    step = scheduled("alternating(3)")
    found = []
    for _ in range(4):
        found.append(ratio(step))
        step.after_step()
    assert found == pytest.approx([3, -3, 3, -3])


@pytest.mark.parametrize("weight", ["linear(4)", "warmup(4)"])
def test_a_weight_that_follows_a_run_of_unknown_length_is_refused(weight):
    told = rf"^relations\.similarity_2\.weight: {re.escape(weight)} follows the run's progress, .*total_steps=4000\)$"
    for step in (scheduled(weight), scheduled(weight).train()):
        with pytest.raises(RecipeError, match=told):
            step(photos(), LABELS, **BATCH)
    for free in ("alternating(4)", "random(4)", "random_sign(4)", "4"):
        scheduled(free).train()(photos(), LABELS, **BATCH)


@pytest.mark.parametrize("steps", [0, -1, 2.5, True])
def test_a_length_that_is_none_is_refused(steps):
    with pytest.raises(ValueError, match=r"^total_steps is the run's number of updates, at least 1, got "):
        packaged("tied_cifar10", total_steps=steps)


def test_the_recipes_steps_tell_the_progress():
    step = scheduled("linear(4)", train="steps: 20")
    step.updates = 5
    assert ratio(step) == pytest.approx(1)


# ------------------------------------------------------------------------------------------------ determinism


def same_state(one, other):
    one, other = one.state_dict(), other.state_dict()
    return list(one) == list(other) and all(torch.equal(value, other[name]) for name, value in one.items())


def test_the_seed_alone_tells_the_initial_weights():
    torch.manual_seed(1)
    first = packaged("agmax_cifar10")
    torch.manual_seed(2)
    torch.randn(17)
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002 - the global generator must not matter
    assert same_state(first, packaged("agmax_cifar10"))
    assert not same_state(first, packaged("agmax_cifar10", "seed=1"))


def test_building_a_step_draws_nothing_from_the_global_generator():
    before = torch.get_rng_state()
    packaged("agmax_cifar10")
    assert torch.equal(torch.get_rng_state(), before)


def test_the_loss_is_a_function_of_index_epoch_and_seed():
    def loss(step=None, **batch):
        step = step or packaged("tied_cifar10", total_steps=10)
        return step(photos(), LABELS, **{**BATCH, **batch})["loss"]

    expected = loss()
    torch.randn(5)
    assert torch.equal(loss(), expected)
    assert torch.equal(loss(index=BATCH["index"].tolist()), expected)
    assert not torch.equal(loss(epoch=3), expected)
    assert not torch.equal(loss(index=torch.arange(B)), expected)
    other = packaged("tied_cifar10", "seed=1", total_steps=10)
    other.load_state_dict(packaged("tied_cifar10").state_dict())
    assert not torch.equal(loss(other), expected)  # the same weights, other draws


def test_views_of_an_image_do_not_depend_on_its_batch():
    step = packaged("tied_cifar10")
    together = step.views(photos(), LABELS, **BATCH)
    for i in range(B):
        alone = step.views(photos()[i : i + 1], LABELS[i : i + 1], index=[100 + i], epoch=2)
        for name, view in alone.items():
            assert torch.equal(view.pixels[0], together[name].pixels[i])
            assert torch.equal(view.target[0], together[name].target[i])


def test_rendered_views_stand_for_images():
    first, second = packaged("sla_sd_cifar10"), packaged("sla_sd_cifar10")
    views = first.views(photos(), LABELS, **BATCH)
    raw, rendered = first(photos(), LABELS, **BATCH), second(views)
    assert torch.equal(raw["loss"], rendered["loss"])
    assert torch.equal(raw["output"], rendered["output"])
    assert same_state(first, second)


def test_only_views_that_are_read_are_made():
    step = custom("cross_entropy(logits(c))", views=", c: {from: b, make: flip}, d: {from: a, make: flip}")
    assert step.rendered_views == ["b", "c"]
    full = step.views(photos(), LABELS, **BATCH)
    part = step.views(photos(), LABELS, **BATCH, only=step.rendered_views)
    assert (sorted(full), sorted(part)) == (["a", "b", "c", "d"], ["b", "c"])
    assert torch.equal(full["c"].pixels, part["c"].pixels)


UNLIKE = """
views:
  a: {from: image, make: "crop(16) | flip(0.5)"}
  b: {like: a}
  test: {from: image, make: "resize(18) | center_crop(16)"}
branches: {net: {backbone: cresnet20}}
relations: ["cross_entropy(logits(a), logits(b))"]
train: {epochs: 1}
"""


def test_images_of_unlike_sizes():
    step = Step(parse_recipe(UNLIKE), C)
    images = [photos(1, size, seed=size)[0][:, : size - 2] for size in (20, 24, 30, 24, 40, 21)]
    views = step.views(images, LABELS, **BATCH)
    assert views["a"].pixels.shape == (B, 3, 16, 16)
    for i, image in enumerate(images):
        alone = step.views(image[None], LABELS[i : i + 1], index=[100 + i], epoch=2)
        assert torch.equal(alone["b"].pixels[0], views["b"].pixels[i])
    other = Step(parse_recipe(UNLIKE), C)
    assert torch.equal(step(images, LABELS, **BATCH)["loss"], other(views)["loss"])
    step.eval()
    found = step.predict(images)["logits"]
    one_by_one = torch.cat([step.predict([image])["logits"] for image in images])
    torch.testing.assert_close(found, one_by_one, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------ evaluation


def sgd(step):
    return torch.optim.SGD([p for p in step.parameters() if p.requires_grad], lr=0.1, momentum=0.9)


def trained(step, updates=3):
    """A few real updates, so that statistics and averages are away from where they began."""
    optimizer = sgd(step)
    for epoch in range(updates):
        optimizer.zero_grad()
        step(photos(seed=epoch), LABELS, index=range(B), epoch=epoch)["loss"].backward()
        optimizer.step()
        step.after_step()
    return step


def test_predict_gives_features_and_scores():
    step = trained(packaged("baseline_cifar10")).eval()
    found = step.predict(photos(seed=9))
    h = step.main.backbone((photos(seed=9) / 255 - step.main.mean) / step.main.std)
    torch.testing.assert_close(found["h"], h.detach())
    torch.testing.assert_close(found["logits"], head(step, "logits", h).detach())
    assert not found["logits"].requires_grad


def test_sla_predicts_from_the_upright_image_alone_and_from_its_orbit():
    step = trained(packaged("sla_cifar10")).eval()
    images = photos(seed=9)
    found = step.predict(images, aggregated=True)

    def joint(turned):
        return head(step, "joint", step.main.backbone((turned / 255 - step.main.mean) / step.main.std)).detach()

    by_turn = [joint(torch.rot90(images, turn, dims=(2, 3))) for turn in range(4)]
    single = torch.stack([by_turn[0][:, 4 * c] for c in range(C)], dim=1)
    torch.testing.assert_close(found["logits"], single)
    rows = torch.stack(by_turn, dim=1).flatten(0, 1)
    torch.testing.assert_close(found["aggregated"], F.aggregate(rows, 4))
    by_class = [sum(by_turn[t][:, 4 * c + t] for t in range(4)) / 4 for c in range(C)]
    torch.testing.assert_close(found["aggregated"], torch.stack(by_class, dim=1))
    assert step.classifier == "joint"
    assert step.can_aggregate


@pytest.mark.parametrize("name", ["sla_cifar10", "sla_sd_cifar10"])
def test_what_is_aggregated_passes_the_network_once_a_member(name):
    step = trained(packaged(name)).eval()
    rows = []
    step.main.backbone.register_forward_pre_hook(lambda network, given: rows.append(len(given[0])))
    alone, together = (step.predict(photos(seed=9), aggregated=aggregated) for aggregated in (False, True))
    assert rows == [B] * 5  # the image alone, and each of four members
    for key, value in alone.items():
        assert torch.equal(together[key], value)


def test_self_distillation_predicts_with_its_single_head():
    step = trained(packaged("sla_sd_cifar10")).eval()
    found = step.predict(photos(seed=9), aggregated=True)
    torch.testing.assert_close(found["logits"], head(step, "logits", found["h"]).detach())
    assert found["aggregated"].shape == (B, C)
    assert step.classifier == "logits"


def test_what_cannot_be_aggregated():
    message = "nothing to aggregate: no head of this recipe tells the members of an orbit apart"
    count = custom(
        "joint_cross_entropy(joint(r))",
        views=", r: {from: a, make: flip, count: 4}",
        heads=', joint: "linear(h, orbit=r)"',
    )
    for step in (packaged("baseline_cifar10"), packaged("sla_da_cifar10"), count):
        assert not step.can_aggregate
        with pytest.raises(RecipeError) as caught:
            step.eval().predict(photos(), aggregated=True)
        assert str(caught.value) == message


def test_evaluation_looks_at_the_test_view():
    text = UNLIKE.replace("resize(18) | center_crop(16)", "center_crop(16)")
    step = trained(Step(parse_recipe(text), C)).eval()
    images = photos(size=20)
    pixels = images[:, :, 2:18, 2:18] / 255
    assert torch.equal(step.test_pixels(images), pixels)
    h = step.main.backbone((pixels - step.main.mean) / step.main.std).detach()
    torch.testing.assert_close(step.predict(images)["h"], h)
    assert "test" not in step.views(images, LABELS, **BATCH)


def test_without_a_test_view_images_of_another_size_are_brought_to_the_trained_one():
    step = packaged("baseline_cifar10").eval()
    assert step.trained_size == (16, 16)
    alike = step.predict(list(photos()))
    assert torch.equal(alike["logits"], step.predict(photos())["logits"])
    unlike = [photos(1, 24)[0], photos(1, 18)[0][:, :, :16], photos(1)[0]]
    for image, pixels in zip(unlike, step.test_pixels(unlike), strict=True):
        op = OPS["resize"](16)
        whole = op.render(image[None], op.sample(Draws(0, 0, [0]), torch.tensor([image.shape[-2:]])))
        top, left = ((side - 16) // 2 for side in whole.shape[-2:])
        seen = whole[0, :, top : top + 16, left : left + 16]
        torch.testing.assert_close(pixels, seen, rtol=0, atol=0.51 / 255)  # grey levels, where the reference has floats
    assert torch.equal(step.test_pixels(unlike)[2], photos(1)[0] / 255)


def test_without_a_trained_size_or_a_test_view_unlike_images_are_refused():
    step = packaged("baseline_cifar10", "views.a.make=flip").eval()
    assert step.trained_size is None
    with pytest.raises(RecipeError) as caught:
        step.predict([photos(1, 16)[0], photos(1, 18)[0]])
    assert str(caught.value) == (
        "views: images have unlike sizes; say what evaluation looks at, as in "
        "test: {from: image, make: 'resize(256) | center_crop(224)'}"
    )


def test_views_do_not_depend_on_the_precision_of_training():
    make = "views.a.make=crop(16) | jitter(0.4, 0.4, 0.4, 0.1) | randaugment(2, 9)"
    step = packaged("baseline_cifar10", make)
    plain = step.views(photos(), **BATCH)
    with torch.autocast("cpu", torch.bfloat16):
        other = step.views(photos(), **BATCH)
    assert all(torch.equal(plain[name].images, other[name].images) for name in plain)


def test_labels_reach_views_that_were_made_without_them():
    step = packaged("sla_cifar10")
    views = step.views(photos(), **BATCH)
    assert torch.equal(step(views, LABELS)["loss"], step(photos(), LABELS, **BATCH)["loss"])


def test_heads_on_heads_read_members_and_families_together():
    heads = ', joint: "linear(h, orbit=r)", z: "projector(h, 8)", p: "predictor(z, 8)"'
    step = custom("joint_cross_entropy(joint(r))", "similarity(p(r.0), p(r.1))", views=ORBIT, heads=heads)
    out = step(photos(), LABELS, **BATCH)
    h = step.branches["net"](step.views(photos(), **BATCH), [("h", "r")])["h", "r"]
    p = step.main.heads["p"](step.main.heads["z"](torch.cat([h[::4], h[1::4]])))
    assert out["terms"]["similarity"].item() == pytest.approx(F.similarity(*p.split(B)).item(), rel=1e-4)


def test_predictions_do_not_depend_on_the_batch_or_change_the_step():
    step = trained(packaged("baseline_cifar10")).eval()
    before = copy.deepcopy(step)
    whole = step.predict(photos())["logits"]
    parts = torch.cat([step.predict(part)["logits"] for part in photos().split(2)])
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)
    assert same_state(before, step)


# ------------------------------------------------------------------------------------------------ average


def test_the_average_is_an_exponential_moving_average():
    step = packaged("baseline_cifar10", "train.ema=0.75")
    average = {name: value.clone() for name, value in step.main.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in step.parameters() if p.requires_grad], lr=0.1)
    for update in range(4):
        optimizer.zero_grad()
        step(photos(seed=update), LABELS, **BATCH)["loss"].backward()
        optimizer.step()
        step.after_step()
        for name, value in step.main.state_dict().items():
            average[name] = 0.75 * average[name] + 0.25 * value if value.is_floating_point() else value.clone()
    for name, value in step.average.module.state_dict().items():
        torch.testing.assert_close(value, average[name], rtol=1e-5, atol=1e-6, msg=name)
    assert not torch.allclose(average["heads.logits.weight"], step.main.heads["logits"].weight, atol=1e-4)


def test_averaged_weights_answer():
    step = trained(packaged("baseline_cifar10", "train.ema=0.75")).eval()
    assert not any(p.requires_grad for p in step.average.parameters())
    net = step.average.module
    h = net.backbone((photos() / 255 - net.mean) / net.std)
    found = step.predict(photos())
    torch.testing.assert_close(found["h"], h)
    assert not torch.allclose(found["logits"], head(step, "logits", step.main.backbone(photos() / 255)), atol=1e-3)


# ------------------------------------------------------------------------------------------------ state


STATEFUL = {
    "lines": ("cross_entropy(logits(a), logits(b))", "agmax(logits(a), logits(b), weight=alternating(1))"),
    "train": "epochs: 10, ema: 0.9",
}


def stateful():
    return custom(*STATEFUL["lines"], train=STATEFUL["train"])


def test_state_dict_is_the_whole_state():
    step = trained(stateful())
    file = io.BytesIO()
    torch.save(step.state_dict(), file)
    file.seek(0)
    other = stateful()
    with torch.no_grad():
        for value in [*other.parameters(), *other.buffers()]:
            value.add_(1)
    constants = {name: value for name, value in stateful().named_buffers() if name.endswith(("mean", "std"))}
    for name, value in other.named_buffers():  # the normalisation is the recipe's, not the state's
        if name in constants and "running" not in name:
            value.copy_(constants[name])
    assert other.load_state_dict(torch.load(file, weights_only=True)).missing_keys == []
    assert other.updates == 3
    assert same_state(step, other)
    for batch in range(2):
        ours = step(photos(seed=batch), LABELS, **BATCH)
        theirs = other(photos(seed=batch), LABELS, **BATCH)
        assert torch.equal(ours["loss"], theirs["loss"])
        assert all(torch.equal(value, theirs["terms"][name]) for name, value in ours["terms"].items())
        step.after_step()
        other.after_step()
    assert same_state(step, other)


def test_a_resumed_run_continues_to_the_bit():
    whole = trained(stateful(), updates=5)
    step = stateful()
    optimizer = sgd(step)
    for epoch in range(5):
        if epoch == 2:
            saved = copy.deepcopy((step.state_dict(), optimizer.state_dict()))
            step = stateful()
            step.load_state_dict(saved[0])
            optimizer = sgd(step)
            optimizer.load_state_dict(saved[1])
        optimizer.zero_grad()
        step(photos(seed=epoch), LABELS, index=range(B), epoch=epoch)["loss"].backward()
        optimizer.step()
        step.after_step()
    assert same_state(step, whole)


@pytest.mark.parametrize("make", [stateful, lambda: packaged("sla_sd_cifar10")], ids=["average", "sla"])
def test_a_deep_copy_is_equal_and_independent(make):
    step = trained(make())
    twin = copy.deepcopy(step)
    assert same_state(step, twin)
    before = {name: value.clone() for name, value in step.state_dict().items()}
    expected = copy.deepcopy(step)(photos(), LABELS, **BATCH)["loss"]
    trained(twin)
    assert twin.updates == 6
    assert step.updates == 3
    assert all(torch.equal(value, before[name]) for name, value in step.state_dict().items())
    assert torch.equal(step(photos(), LABELS, **BATCH)["loss"], expected)


# ---------------------------------------------------------------------------------------- precision, compilation


@pytest.mark.parametrize("name", ["tied_cifar10", "agmax_cifar10", "sla_sd_cifar10", "jsd_cifar10"])
def test_losses_are_float32_under_autocast(name):
    step = packaged(name, *(["relations.similarity.weight=1"] if name == "tied_cifar10" else []))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = step(photos(), LABELS, **BATCH)
    assert {value.dtype for value in [out["loss"], out["output"], *out["z"], *out["terms"].values()]} == {torch.float32}
    out["loss"].backward()
    assert all(p.grad.isfinite().all() for p in step.parameters())


def test_relations_see_float32_under_autocast():
    step = custom("similarity(h(a), h(b))", "agmax(logits(a), logits(b))")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        h = by_hand(step, ["a", "b"])
        a, b = (head(step, "logits", h[view]) for view in "ab")
        out = step(photos(), LABELS, **BATCH)
    assert a.dtype == torch.bfloat16  # so that the comparison below is one
    q = step.relations["agmax"].joint(torch.cat([a.float(), b.float()], dim=1))
    entropy, divergence = F.agmax(a.float(), b.float(), q)
    torch.testing.assert_close(out["terms"]["similarity"], F.similarity(h["a"].float(), h["b"].float()))
    torch.testing.assert_close(out["terms"]["agmax.entropy"], entropy)
    torch.testing.assert_close(out["terms"]["agmax.divergence"], divergence)


WITHOUT_LABELS = {  # line: what it should be of z of a and b, given as the branch gave them and made float32
    "cosine(z(a), toward=stop(z(b)))": lambda step, a, b: F.negative_cosine(a, b),
    "nt_xent(z(a), z(b), temperature=0.2)": lambda step, a, b: F.nt_xent(a, b, 0.2),
    "info_nce(z(a), toward=stop(z(b)), queue=9)": lambda step, a, b: F.info_nce(
        a, b, step.relations["info_nce"].queue, step.relations["info_nce"].temperature
    ),
    "swav(z(a), z(b), prototypes=4)": lambda step, a, b: F.swav(
        *(torch_functional.normalize(z) @ step.relations["swav"].prototypes.T for z in (a, b)), 0.1, 0.05, 3
    ),
    "vicreg(z(a), z(b))": lambda step, a, b: F.vicreg(a, b),
    "barlow_twins(z(a), z(b))": lambda step, a, b: F.barlow_twins(a, b),
    "supervised_contrastive(z(a), z(b))": lambda step, a, b: F.supervised_contrastive(
        torch.cat([a, b]), LABELS.repeat(2), 0.1
    ),
}


@pytest.mark.parametrize("line", WITHOUT_LABELS)
def test_learning_without_labels_sees_float32_under_autocast(line):
    step = custom(line, heads=", z: 'mlp(h, 16, 8)'")
    seen = []
    step.main.heads["z"].register_forward_hook(lambda module, args, out: seen.append(out))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = step(photos(), LABELS, **BATCH)
    (z,) = seen
    assert z.dtype == torch.bfloat16
    assert out["loss"].dtype == torch.float32
    torch.testing.assert_close(out["loss"], WITHOUT_LABELS[line](step, *z.float().split(B)))
    out["loss"].backward()
    assert all(p.grad.isfinite().all() for p in step.parameters())


@pytest.mark.slow(reason="a backbone is compiled")
@pytest.mark.skipif(not (shutil.which("c++") or shutil.which("g++")), reason="torch.compile needs a C++ compiler")
@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() == "DEFAULT",
    reason="torch 2.14 makes no code that compiles without vectors",
)
def test_a_compiled_backbone_gives_the_same_loss_and_gradients():
    lines = ("cross_entropy(logits(a), logits(b))", "similarity(h(a), h(b))")
    plain, compiled = (custom(*lines, backbone=f'"{TINY}"') for _ in range(2))
    compiled.main.backbone.compile()
    ours, theirs = (step(photos(), LABELS, **BATCH) for step in (plain, compiled))
    torch.testing.assert_close(theirs["loss"], ours["loss"], rtol=1e-4, atol=1e-5)
    ours["loss"].backward()
    theirs["loss"].backward()
    for (name, mine), other in zip(plain.named_parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(other.grad, mine.grad, rtol=1e-2, atol=1e-3, msg=lambda m, n=name: f"{n}: {m}")
    assert list(plain.state_dict()) == list(compiled.state_dict())  # a checkpoint does not tell whether it was compiled


def test_a_compiled_backbone_keeps_its_taps():
    plain, compiled = (custom("similarity(mid(a), mid(b))", heads=", mid: \"pool('layer2')\"") for _ in range(2))
    compiled.main.backbone.compile(backend="eager")
    for seed in range(2):
        ours, theirs = (step(photos(seed=seed), LABELS, **BATCH)["loss"] for step in (plain, compiled))
        torch.testing.assert_close(theirs, ours)


# ------------------------------------------------------------------------------------------- learning without labels


@pytest.mark.parametrize("forward", ["joint", "separate"])
def test_multi_crop_swav_by_views_that_pass_alone(forward):
    """In evaluation mode, where rows pass the network independently."""
    views = ", small: {from: image, make: 'crop(12, scale=(0.1, 0.4)) | flip', count: 3}"
    heads = f", z: 'projector(h, 8, norm_last=False)', forward: {forward}"
    step = custom("swav(z(a), z(b), others=z(small), prototypes=4, weight=0.5)", views=views, heads=heads).eval()
    made = step.views(photos(), LABELS, **BATCH)
    assert made["small"].pixels.shape == (3 * B, 3, 12, 12)
    c = step.relations["swav"].prototypes
    scores = {
        view: torch_functional.normalize(step.main.read(made[view].pixels, ["z"])["z"]) @ c.T
        for view in ("a", "b", "small")
    }
    crops = [scores["small"][t::3] for t in range(3)]
    expected = 0.5 * F.swav(scores["a"], scores["b"], 0.1, 0.05, 3, *crops)
    out = step(photos(), LABELS, **BATCH)
    torch.testing.assert_close(out["loss"], expected, rtol=1e-5, atol=1e-6)
    assert step.rows_per_image == 5


@pytest.mark.parametrize(
    ("line", "warned"),
    [
        ("cosine(z(a), toward=z(b))", True),
        ("cosine(z(a), toward=stop(z(b)))", False),
        ("cosine(z(a), toward=teacher.z(b), swapped=True)", False),
        ("cosine(z(a), toward=stop(teacher.z(b)))", False),
        ("cosine(z(a), toward=stop(mix(z(b), like=m)))", False),
        ("cosine(z(a), toward=mix(z(b), like=m))", True),
    ],
)
def test_a_target_that_moves_is_warned_of(line, warned):
    heads = ", z: 'mlp(h, 16, 8)'}, teacher: 'ema(net)'"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        text = f"""
        views: {{a: {{from: image, make: "{MAKE}"}}, b: {{like: a}}, m: {{from: image, make: "mixup(1.0)"}}}}
        branches: {{net: {{backbone: cresnet20{heads}}}
        relations: ["{line}"]
        train: {{epochs: 1}}
        """
        Step(parse_recipe(text), C)
    ours = [str(each.message) for each in caught if issubclass(each.category, ManyviewWarning)]
    assert len(ours) == warned
    assert all(text.startswith("cosine(z(a), toward=") and "\n" not in text for text in ours)


# ------------------------------------------------------------------------------------------------ errors


def test_wrong_calls():
    step = packaged("baseline_cifar10")
    with pytest.raises(ValueError, match="6 images came with 5 indices"):
        step(photos(), LABELS, index=range(5))
    with pytest.raises(ValueError, match="draws depend on the images' indices"):
        step(photos(), LABELS)
    with pytest.raises(ValueError, match="these views have no targets: pass labels to the step"):
        step(photos(), **BATCH)


def test_labels_outside_the_classes():
    for name in ("sla_cifar10", "baseline_cifar10"):
        with pytest.raises((ValueError, IndexError), match=r"10 is out|label 10"):
            packaged(name)(photos(), torch.full((B,), 10), **BATCH)
