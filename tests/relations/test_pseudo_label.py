"""Pseudo-labels: each threshold rule against slow arithmetic, its state, what it refuses; a hand-written FixMatch."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import manyview
import references as ref
from manyview import functional as F
from manyview.data.batch import Batch
from manyview.errors import BatchError, RecipeError
from manyview.relations import Port, Reading
from manyview.relations.pseudo_label import PseudoLabel, fairness
from manyview.relations.similarity import Similarity
from manyview.relations.thresholds import Flex, Free, Soft

B, C, N = 6, 4, 11


def port(text="logits(a)", dim=C, **more):
    return Port(text, dim, classes=C, **more)


def logits(seed, rows=B, scale=2.0):
    drawn = torch.Generator().manual_seed(seed)
    return scale * torch.randn(rows, C, generator=drawn, dtype=torch.float64)


def relation(threshold, **options):
    return PseudoLabel(port(), toward=port("logits(b)"), threshold=threshold, **options).double()


def batches(count=5):
    """(strong, weak, index): images come again, as in later epochs."""
    order = np.random.default_rng(0)
    return [(logits(2 * n), logits(2 * n + 1), torch.from_numpy(order.permutation(N)[:B])) for n in range(count)]


def run(module, strong, weak, index):
    """A forward pass and what follows its update; the loss."""
    loss = module(Reading(strong.requires_grad_()), toward=Reading(weak, index=index))
    module.rule.after_step()
    return loss


def cross_entropies(strong, target):
    return [-row[label] for row, label in zip(ref.log_softmax(strong.detach().numpy()), target, strict=True)]


# ----------------------------------------------------------------------------------------------------------- the loss


@pytest.mark.parametrize("threshold", [0.3, 0.6, 1])
def test_fixmatch_is_the_function(threshold):
    strong, weak = logits(0), logits(1)
    module = relation(threshold)
    loss = module(Reading(strong), toward=Reading(weak))
    torch.testing.assert_close(loss, F.pseudo_label(strong, weak, threshold))
    sure = weak.softmax(1).max(1).values >= threshold
    torch.testing.assert_close(module.measures["confident"], sure.double().mean())


def test_uda_is_soft_and_sharp():
    strong, weak = logits(0), logits(1)
    loss = relation(0.5, sharpen=0.4)(Reading(strong), toward=Reading(weak))
    p, log_s, q = ref.softmax_rows(weak.numpy()), ref.log_softmax(strong.numpy()), ref.softmax_rows(weak.numpy() / 0.4)
    by_hand = sum(-sum(np.multiply(q[i], log_s[i])) for i in range(B) if max(p[i]) >= 0.5) / B
    assert float(loss) == pytest.approx(by_hand, rel=1e-9)


def test_no_gradient_reaches_the_weak_view():
    strong, weak = logits(0).requires_grad_(), logits(1).requires_grad_()
    for threshold in (0.3, Free(), Soft(align=True)):
        relation(threshold)(Reading(strong), toward=Reading(weak)).backward()
    assert weak.grad is None
    assert strong.grad.abs().max() > 0


# -------------------------------------------------------------------------------------------------------------- rules


@pytest.mark.parametrize("images", [None, N])
def test_flexmatch(images):
    module, said = relation(Flex(0.6, images=images)), {}
    for strong, weak, index in batches():
        counts = [sum(label == c for label in said.values()) for c in range(C)]
        unused = (N if images else len(said)) - sum(counts)
        beta = [count / max(max(counts), unused, 1) for count in counts]
        p = ref.softmax_rows(weak.numpy())
        labels = [int(np.argmax(row)) for row in p]
        mask = [max(row) >= 0.6 * beta[y] / (2 - beta[y]) for row, y in zip(p, labels, strict=True)]
        by_hand = sum(np.multiply(cross_entropies(strong, labels), mask)) / B
        assert float(run(module, strong, weak, index)) == pytest.approx(by_hand, rel=1e-9)
        for image, row, label in zip(index.tolist(), p, labels, strict=True):
            said[image] = label if max(row) >= 0.6 else said.get(image, -1)
    held = module.rule.said.tolist()
    assert {image: label for image, label in enumerate(held) if label > -2} == said


def test_freematch():
    module = relation(Free(momentum=0.7), fairness=0.3)
    overall, local, often = 1 / C, np.full(C, 1 / C), np.full(C, 1 / C)
    for strong, weak, index in batches():
        p = np.array(ref.softmax_rows(weak.numpy()))
        labels = p.argmax(1)
        overall = 0.7 * overall + 0.3 * p.max(1).mean()
        local = 0.7 * local + 0.3 * p.mean(0)
        often = 0.7 * often + 0.3 * np.bincount(labels, minlength=C) / B
        mask = p.max(1) >= overall * local[labels] / local.max()
        found = run(module, strong, weak, index)
        assert float(found["labels"]) == pytest.approx(np.mean(cross_entropies(strong, labels) * mask), rel=1e-6)
        even = ref.fairness(strong.detach().numpy(), mask, local, often)
        assert float(found["fairness"]) == pytest.approx(0.3 * even, rel=1e-6)
        thresholds = [float(module.measures[f"threshold/{c}"]) for c in range(C)]
    assert thresholds != pytest.approx([overall] * C)
    np.testing.assert_allclose(module.rule.local.numpy(), local, rtol=1e-6)


@pytest.mark.parametrize("align", [False, True])
def test_softmatch(align):
    module = relation(Soft(sigmas=2, momentum=0.7, align=align))
    mean, variance, local = 1 / C, 1.0, np.full(C, 1 / C)
    for strong, weak, index in batches():
        p = np.array(ref.softmax_rows(weak.numpy()))
        local = 0.7 * local + 0.3 * p.mean(0)
        q = p / local / (p / local).sum(1, keepdims=True) if align else p
        c = q.max(1)
        mean, variance = 0.7 * mean + 0.3 * c.mean(), 0.7 * variance + 0.3 * c.var(ddof=1)
        m = [math.exp(-(min(x - mean, 0) ** 2) * 4 / (2 * variance)) for x in c]
        by_hand = np.mean(np.multiply(cross_entropies(strong, p.argmax(1)), m))  # labels are those of p
        assert float(run(module, strong, weak, index)) == pytest.approx(by_hand, rel=1e-6)


RULES = {"flex": Flex(0.6), "free": Free(momentum=0.5), "soft": Soft(momentum=0.5, align=True)}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_parts_of_a_batch_leave_the_state_of_the_whole(rule):
    whole, parts = relation(rule), relation(rule)
    for strong, weak, index in batches(3):
        run(whole, strong, weak, index)
        for rows in (slice(0, 2), slice(2, B)):
            parts(Reading(strong[rows]), toward=Reading(weak[rows], index=index[rows]))
        parts.rule.after_step()
    one, two = whole.state_dict(), parts.state_dict()
    assert one
    for name, value in one.items():
        torch.testing.assert_close(value, two[name])


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_loaded_state_goes_on_alike(rule):
    first, second = relation(rule), relation(rule)
    for each in batches(2):
        run(first, *each)
    second.load_state_dict(first.state_dict())
    losses = [[float(run(module, *each)) for each in batches()[2:]] for module in (first, second)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_looking_moves_nothing(rule):
    module = relation(rule)
    run(module, *batches()[0])
    before = {name: value.clone() for name, value in module.state_dict().items()}
    strong, weak, index = batches()[1]
    with torch.no_grad():
        run(module, strong, weak, index)
    run(module.eval(), strong, weak, index)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_softmatch_where_all_are_equally_sure():
    """A variance of 0, as of momentum 0: what is as sure as the mean counts whole, and what is less, nothing."""
    counted = F.soft_weights(torch.tensor([0.6, 0.5, 0.4]), torch.tensor(0.5), torch.tensor(0.0))
    assert counted.tolist() == [1, 1, 0]


def test_fairness_by_finite_differences():
    strong, weights = logits(0).requires_grad_(), torch.tensor([1.0, 0, 1, 1, 0, 1], dtype=torch.float64)
    local, labels = logits(1).softmax(1)[0], logits(2).softmax(1)[0]
    assert torch.autograd.gradcheck(lambda x: fairness(x, weights, local, labels), (strong,))
    assert float(fairness(strong, 0 * weights, local, labels)) == 0


def test_a_tie_of_the_rows_that_are_sure():
    h1, h2, by = torch.randn(B, 3), torch.randn(B, 3), logits(1).float()
    sure = by.softmax(1).max(1).values >= 0.6
    assert 0 < sure.sum() < B
    for kind in ("mse", "mae", "cosine"):
        module = Similarity(port("h(a)", 3), port("h(b)", 3), kind=kind, where=port("logits(a)"), threshold=0.6)
        rows = [F.similarity(h1[i : i + 1], h2[i : i + 1], kind) for i in range(B) if sure[i]]
        torch.testing.assert_close(module(Reading(h1), Reading(h2), where=Reading(by)), sum(rows) / B)


# --------------------------------------------------------------------------------------------------------- the system

RECIPE = """
data: {source: digits, labels_per_class: 4, unlabeled: all}
views:
  x: {from: image, make: "pad_crop(8, padding=1)"}
  weak: {from: unlabeled, make: "pad_crop(8, padding=1)"}
  strong: {from: unlabeled, make: "pad_crop(8, padding=1) | rotate(30)"}
branches: {net: {backbone: "test_vit(img_size=8, patch_size=4)", normalize: half}}
relations:
  - cross_entropy(logits(x))
  - pseudo_label(logits(strong), toward=stop(logits(weak)), threshold=0.12)
  - similarity(h(weak), h(strong), kind="cosine", weight=2)
train: {steps: 10, batch_size: 4, unlabeled_per_labeled: 2}
"""


def given():
    drawn = torch.Generator().manual_seed(0)
    images = torch.randint(256, (12, 3, 8, 8), generator=drawn, dtype=torch.uint8)
    return Batch(images[:4], torch.arange(4), range(4), 1, streams={"unlabeled": Batch(images[4:], None, range(8), 0)})


def test_a_tied_fixmatch_written_by_hand():
    step = manyview.Step(manyview.parse_recipe(RECIPE), 10).train()
    batch, net = given(), step.main
    out = step(batch)
    out["loss"].backward()
    ours = {name: value.grad.clone() for name, value in net.named_parameters()}
    step.zero_grad()
    x = step.views(batch.images, index=range(4), epoch=1)["x"].pixels
    views = step.views(batch.streams["unlabeled"].images, index=range(8), epoch=0, stream="unlabeled")
    h = net.backbone((torch.cat([x, views["weak"].pixels, views["strong"].pixels]) - net.mean) / net.std)
    x, weak, strong = net.heads["logits"](h).split([4, 8, 8])
    probabilities, labels = weak.detach().softmax(1).max(1)
    loss = torch.nn.functional.cross_entropy(x, torch.arange(4))
    each = torch.nn.functional.cross_entropy(strong, labels, reduction="none")
    loss = loss + (each * (probabilities >= 0.12)).mean()
    loss = loss + 2 * (1 - torch.cosine_similarity(h[4:12], h[12:])).mean()
    loss.backward()
    torch.testing.assert_close(out["loss"], loss)
    for name, value in net.named_parameters():
        torch.testing.assert_close(ours[name], value.grad, msg=name)
    assert set(out["measures"]) == {"pseudo_label/confident"}


def test_three_updates_of_flexmatch_written_by_hand():
    """Losses, gradients, weights after torch's SGD and the memory, of images that come again."""
    text = RECIPE.replace("threshold=0.12", "threshold=flex(0.638)").replace(", weight=2)", ", weight=0.5)")
    step = manyview.Step(manyview.parse_recipe(text), 10).train()
    net, said = copy.deepcopy(step.main), {}
    ours, theirs = (torch.optim.SGD(each.parameters(), lr=0.002, momentum=0.9) for each in (step, net))
    step.attach(ours)
    for epoch in range(3):
        batch = given()
        other = replace(batch.streams["unlabeled"], index=torch.arange(8) * 2 % 11, epoch=epoch)
        batch = replace(batch, epoch=epoch, streams={"unlabeled": other})
        ours.zero_grad()
        out = step(batch)
        out["loss"].backward()

        x = step.views(batch.images, index=range(4), epoch=epoch)["x"].pixels
        views = step.views(other.images, index=other.index, epoch=epoch, stream="unlabeled")
        h = net.backbone((torch.cat([x, views["weak"].pixels, views["strong"].pixels]) - net.mean) / net.std)
        x, weak, strong = net.heads["logits"](h).split([4, 8, 8])
        sure, labels = weak.detach().softmax(1).max(1)
        counts = torch.bincount(torch.tensor([c for c in said.values() if c >= 0], dtype=torch.long), minlength=10)
        beta = counts / max(int(counts.max()), len(said) - int(counts.sum()), 1)
        mask = sure >= 0.638 * (beta / (2 - beta))[labels]
        cross_entropy = torch.nn.functional.cross_entropy
        loss = cross_entropy(x, torch.arange(4)) + (cross_entropy(strong, labels, reduction="none") * mask).mean()
        loss = loss + 0.5 * (1 - torch.cosine_similarity(h[4:12], h[12:])).mean()
        theirs.zero_grad()
        loss.backward()
        torch.testing.assert_close(out["loss"], loss)
        for (name, one), two in zip(step.main.named_parameters(), net.parameters(), strict=True):
            torch.testing.assert_close(one.grad, two.grad, msg=name)
        ours.step()
        theirs.step()
        for image, label, confidence in zip(other.index.tolist(), labels.tolist(), sure.tolist(), strict=True):
            said[image] = label if confidence >= 0.638 else said.get(image, -1)
    for (name, one), two in zip(step.main.state_dict().items(), net.state_dict().values(), strict=True):
        torch.testing.assert_close(one, two, msg=name)
    held = step.relations["pseudo_label"].rule.said.tolist()
    assert {image: label for image, label in enumerate(held) if label > -2} == said
    assert len({*said.values()}) == 2


def test_flex_in_a_step_remembers_images():
    text = RECIPE.replace("threshold=0.12", "threshold=flex(0.12)")
    step = manyview.Step(manyview.parse_recipe(text), 10).train()
    optimizer = torch.optim.SGD(step.parameters(), lr=0.1)
    step.attach(optimizer)
    assert step.waiting == ["the state of pseudo_label.rule"]
    step(given())["loss"].backward()
    optimizer.step()
    assert len(step.relations["pseudo_label"].rule.said) == 8
    assert step.relations["pseudo_label"].said.index.tolist() == list(range(8))


# ---------------------------------------------------------------------------------------------------------- bad input

BAD = {
    "threshold": ("threshold=95", "threshold must be in (0, 1], got 95"),
    "none": ("threshold=0", "threshold must be in (0, 1], got 0"),
    "flex": ("threshold=flex(1.5)", "threshold must be in (0, 1], got 1.5"),
    "images": ("threshold=flex(0.95, images=0)", "images must be a whole number of at least 1, got 0"),
    "rule": ("threshold=fre()", "unknown threshold 'fre'; did you mean 'free'"),
    "name": ("threshold=fre", "unknown threshold 'fre'; did you mean 'free'"),
    "sigmas": ("threshold=soft(sigmas=0)", "sigmas must be positive, got 0"),
    "momentum": ("threshold=free(momentum=1)", "momentum must be in [0, 1), got 1"),
    "argument": ("threshold=soft(sigma=2)", "sigma"),
    "sharpen": ("sharpen=0", "temperature must be positive, got 0"),
    "fairness": ("fairness=0.1", "write threshold=free()"),
}


def test_a_rule_may_be_a_bare_name():
    step = manyview.Step(manyview.parse_recipe(RECIPE.replace("threshold=0.12", "threshold=free")), 10)
    assert step.relations["pseudo_label"].rule.told == Free()


@pytest.mark.parametrize(("options", "told"), BAD.values(), ids=BAD)
def test_what_is_refused_at_load(options, told):
    text = RECIPE.replace("threshold=0.12", options)
    with pytest.raises(RecipeError) as error:
        manyview.parse_recipe(text)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_ties_of_rows_are_refused_for_kinds_of_the_batch():
    for options, told in {
        'kind="cka", where=stop(logits(weak))': "where takes rows one by one, and cka is of them all",
        "threshold=0.5": "threshold is of where=",
    }.items():
        text = RECIPE.replace('kind="cosine"', options)
        with pytest.raises(RecipeError, match=told):
            manyview.parse_recipe(text)


def test_flex_needs_an_index():
    with pytest.raises(BatchError, match="give the images' index to the step"):
        relation(Flex())(Reading(logits(0)), toward=Reading(logits(1)))
