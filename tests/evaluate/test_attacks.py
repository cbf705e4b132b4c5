"""FGSM and PGD: their definitions, closed forms on linear models, and what they leave alone."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from manyview.data import ArrayImages, Splits
from manyview.errors import DataError, RecipeError
from manyview.evaluate.attacks import Adversarial, fgsm, fgsm_normalized, pgd
from manyview.evaluate.features import Features
from manyview.evaluate.linear import probe_of
from manyview.foundation.grammar import bind, parse_call
from op_cases import photos
from seen import Looks

SHAPE = (3, 5, 4)


class Linear(nn.Module):
    """Logits W x + b after a normalisation inside, in float64."""

    def __init__(self, classes, seed=0, spread=1.0):
        super().__init__()
        drawn = np.random.default_rng(seed)
        self.weight = nn.Parameter(torch.tensor(spread * drawn.normal(size=(classes, 60))))
        self.bias = nn.Parameter(torch.tensor(drawn.normal(size=classes)))
        self.eval()

    def forward(self, pixels):
        return F.linear(((pixels - 0.5) / 0.25).flatten(1), self.weight, self.bias)


def batch(count=6, classes=2, seed=0):
    drawn = np.random.default_rng(seed)
    images = torch.tensor(drawn.uniform(size=(count, *SHAPE)))
    return images, torch.tensor(drawn.integers(classes, size=count))


def losses(model, images, labels):
    with torch.no_grad():
        return F.cross_entropy(model(images), labels, reduction="none")


def network(seed=0):
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Tanh(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(48, 4)]
    return nn.Sequential(*layers).double().eval()


def slow_gradient(model, image, label):
    """Central differences, pixel by pixel."""
    gradient = np.zeros(image.shape)
    for at in np.ndindex(*image.shape):
        ends = []
        for side in (1e-5, -1e-5):
            moved = image.clone()
            moved[at] += side
            ends.append(losses(model, moved[None], label[None]).item())
        gradient[at] = (ends[0] - ends[1]) / 2e-5
    return gradient


def test_fgsm_is_its_definition():
    model = network()
    images, labels = batch(3, 4)
    adversarial = fgsm(model, images, labels, 0.07)
    for image, label, moved in zip(images, labels, adversarial, strict=True):
        gradient = slow_gradient(model, image, label)
        assert np.abs(gradient).min() > 1e-9
        expected = np.clip(image.numpy() + 0.07 * np.sign(gradient), 0, 1)
        np.testing.assert_allclose(moved.numpy(), expected, atol=1e-12)


def test_pgd_is_its_definition():
    model = network(1)
    images, labels = batch(2, 4, seed=3)
    adversarial = pgd(model, images, labels, 0.05, 0.02, 4)
    for image, label, moved in zip(images, labels, adversarial, strict=True):
        at = image.clone()
        for _ in range(4):
            stepped = at.numpy() + 0.02 * np.sign(slow_gradient(model, at, label))
            ball = np.clip(stepped, image.numpy() - 0.05, image.numpy() + 0.05)
            at = torch.tensor(np.clip(ball, 0, 1))
        np.testing.assert_allclose(moved.numpy(), at.numpy(), atol=1e-12)


@pytest.mark.parametrize("epsilon", [0.0, 0.03, 0.5, 1.0])
@pytest.mark.parametrize("seed", [None, 7])
def test_two_classes_and_a_linear_model_have_their_optimum_in_closed_form(epsilon, seed):
    """The loss falls with the margin (w_y - w_other) x alone, which is least at a corner of the box."""
    model = Linear(2)
    images, labels = batch()
    away = (model.weight[1 - labels] - model.weight[labels]).sign().view(images.shape)
    best = torch.where(away > 0, (images + epsilon).clamp(max=1), (images - epsilon).clamp(min=0))
    if seed is None:
        torch.testing.assert_close(fgsm(model, images, labels, epsilon), best)
    found = pgd(model, images, labels, epsilon, epsilon / 4, 9, seed=seed)
    torch.testing.assert_close(found, best)
    corners = images + epsilon * (2 * torch.randint(0, 2, (50, *images.shape)) - 1)
    for other in corners.clamp(0, 1):
        assert (losses(model, other, labels) <= losses(model, found, labels) + 1e-12).all()


def test_where_the_loss_is_convex_pgd_is_no_weaker_than_fgsm():
    """A step of two epsilons maximises the tangent plane over the box, and a convex loss lies above its tangents."""
    model = Linear(7, spread=0.1)
    images, labels = batch(40, 7)
    single = losses(model, fgsm(model, images, labels, 0.2), labels)
    several = losses(model, pgd(model, images, labels, 0.2, 0.4, 6), labels)
    assert (single > losses(model, images, labels)).all()
    assert (several >= single - 1e-12).all()
    assert (several > single + 1e-6).any()


def test_one_step_of_epsilon_from_the_image_is_fgsm():
    model = network()
    images, labels = batch(4, 4)
    assert torch.equal(pgd(model, images, labels, 0.1, 0.1, 1), fgsm(model, images, labels, 0.1))


@pytest.mark.parametrize("seed", [None, 3])
def test_images_stay_in_the_ball_and_in_range(seed):
    images, labels = batch(8, 4)
    images = images.float()
    images[0] = 0
    images[1] = 1
    moved = pgd(network().float(), images, labels, 0.3, 0.2, 5, seed=seed)
    assert moved.min() >= 0
    assert moved.max() <= 1
    assert (moved - images).abs().max() <= 0.3 + 1e-6
    assert (moved - images).abs().max() > 0.29


def test_the_start_is_uniform_and_belongs_to_seed_and_image():
    """A step of zero shows it."""
    images = torch.full((50, *SHAPE), 0.5, dtype=torch.float64)
    labels = torch.zeros(50, dtype=torch.long)
    model = Linear(2)

    def start(rows, seed=1):
        return pgd(model, images[rows], labels[rows], 0.2, 0, 1, seed=seed, index=rows) - 0.5

    every = torch.arange(50)
    drawn = start(every)
    assert drawn.abs().max() <= 0.2
    assert drawn.mean().abs() < 0.01
    assert drawn.std().item() == pytest.approx(0.4 / 12**0.5, rel=0.03)
    assert torch.equal(drawn, start(every))
    assert torch.equal(drawn[[9, 2]], start(torch.tensor([9, 2])))
    assert not torch.equal(drawn, start(every, seed=2))
    assert not torch.equal(drawn[0], drawn[1])


def test_batched_is_one_by_one():
    model = network()
    images, labels = batch(5, 4)
    together = pgd(model, images, labels, 0.1, 0.03, 5, seed=4)
    for row in range(5):
        alone = pgd(model, images[row : row + 1], labels[row : row + 1], 0.1, 0.03, 5, seed=4, index=[row])
        torch.testing.assert_close(alone[0], together[row])


@pytest.mark.parametrize("attack", [lambda *a: fgsm(*a, 0.1), lambda *a: pgd(*a, 0.1, 0.05, 3, seed=0)])
def test_model_and_inputs_are_left_alone(attack):
    model = network()
    model[0].weight.requires_grad_(False)
    images, labels = batch(4, 4)
    losses_before = F.cross_entropy(model(images), labels)
    losses_before.backward()
    before, pixels = copy.deepcopy(model), images.clone()
    gradients = [None if one.grad is None else one.grad.clone() for one in model.parameters()]
    moved = attack(model, images, labels)
    assert not moved.requires_grad
    assert not images.requires_grad
    assert torch.equal(images, pixels)
    for ours, theirs, gradient in zip(model.parameters(), before.parameters(), gradients, strict=True):
        assert torch.equal(ours, theirs)
        assert ours.requires_grad == theirs.requires_grad
        assert ours.grad is None if gradient is None else torch.equal(ours.grad, gradient)
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), before.buffers(), strict=True))
    assert not any(module.training for module in model.modules())


def test_gradients_are_taken_where_none_are_kept():
    model = network()
    images, labels = batch(4, 4)
    expected = fgsm(model, images, labels, 0.1)
    for off in (torch.no_grad, torch.inference_mode):
        with off():
            assert torch.equal(fgsm(model, images * 1, labels * 1, 0.1), expected)


def test_grey_levels_are_taken_as_pixels():
    model = network().float()
    levels = torch.randint(0, 256, (4, *SHAPE), dtype=torch.uint8)
    labels = torch.tensor([0, 1, 2, 3])
    assert torch.equal(fgsm(model, levels, labels, 0.1), fgsm(model, levels.float() / 255, labels, 0.1))


def no_gradient(pixels):
    return torch.zeros(len(pixels), 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": network().train()}, "training mode.*model.eval"),
        ({"model": no_gradient}, "no gradient to its pixels"),
        ({"model": lambda pixels: pixels}, "must give logits"),
        ({"images": batch(3)[0] * 2 - 1}, "normalisation belongs inside"),
        ({"images": batch(3)[0] * float("nan")}, r"must lie in \[0, 1\]"),
        ({"labels": torch.tensor([0, 1])}, r"got \[3, 3, 5, 4\] and \[2\]"),
        ({"labels": torch.tensor([0, 4, 1])}, "label 4 is outside"),
        ({"epsilon": 8}, r"epsilon must be a number in \[0, 1\], got 8"),
        ({"step": -0.1}, "step must be"),
        ({"steps": 0}, "steps must be a whole number"),
        ({"seed": 0, "index": [1]}, "3 images have 1 indices"),
    ],
)
def test_mistakes_are_named(change, message):
    images, labels = batch(3, 4)
    settings = {"model": network(), "images": images, "labels": labels, "epsilon": 0.1, "step": 0.1, "steps": 1}
    with pytest.raises(ValueError, match=message):
        pgd(**(settings | change))


@pytest.mark.parametrize("scale", [1.0, 30.0, 300.0, 1e5])
def test_a_sure_network_is_attacked_as_an_unsure_one(scale):
    """In float32 the cross-entropy's own gradient is gone at margins of 104; its sign is that of the margin's."""
    model = Linear(4, seed=5)
    images, labels = batch(20, 4, seed=6)
    weight = model.weight.detach().numpy()
    expected = []
    for image, label in zip(images.numpy(), labels.tolist(), strict=True):
        scores = scale * (weight @ ((image.flatten() - 0.5) / 0.25) + model.bias.detach().numpy())
        others = [c for c in range(4) if c != label]
        shares = np.exp(scores[others] - scores[others].max())  # of what is not the label's, p_c / (1 - p_label)
        gradient = (shares / shares.sum()) @ weight[others] - weight[label]
        expected.append(np.clip(image + 0.05 * np.sign(gradient.reshape(image.shape)), 0, 1))
    sure = model.float()
    with torch.no_grad():
        sure.weight *= scale
        sure.bias *= scale
    found = fgsm(sure, images.float(), labels, 0.05)
    assert (np.abs(found.numpy() - np.stack(expected)) < 1e-6).mean() > 0.995  # but where the gradient all but cancels
    margins = sure(images.float()).sort(dim=1).values.diff(dim=1)[:, -1]
    assert (margins > 104).float().mean() > 0.9 or scale < 300


def test_images_without_a_gradient_are_counted():
    def dead(pixels):
        """Its ReLU is off for dark images."""
        bright = (pixels.mean(dim=(1, 2, 3), keepdim=True) - 0.5).relu() * pixels
        return bright.flatten(1) @ torch.linspace(-1, 1, 3 * 432).view(3, 432).T

    pixels = torch.cat([torch.full((3, 3, 12, 12), 30), torch.full((5, 3, 12, 12), 220)]).to(torch.uint8)
    images = ArrayImages(pixels, np.arange(8) % 3, np.arange(8), "test")
    model = Looks(lambda pixels: pixels.flatten(1), dead, ("a", "b", "c"))
    report = Adversarial(images=None).measure(
        Features(model, Splits(images, None, images, ("a", "b", "c"), "")), "test"
    )
    assert report.measures["zero_gradients"] == 100 * 3 / 8
    assert "8 images; 3 have no gradient at any pixel" in report.note


def test_what_is_not_finite_moves_nothing():
    images, labels = batch(4, 4)
    moved = fgsm(lambda pixels: network()(pixels) / pixels.sum().mul(0), images, labels, 0.1)
    assert torch.equal(moved, images)


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.5])
def test_agmaxs_attack_is_its_definition(epsilon):
    """Normalised, moved by the sign of the gradient, cut to [0, 1] as it is, and only what was right."""
    model = network(3)
    images, labels = batch(12, 4, seed=8)
    mean, std = (
        torch.tensor(each, dtype=torch.float64).view(1, 3, 1, 1) for each in ((0.4, 0.5, 0.6), (0.2, 0.3, 0.1))
    )
    found = fgsm_normalized(model, images, labels, epsilon, mean, std)
    with torch.no_grad():
        right = (model(images).argmax(dim=1) == labels).tolist()
    assert 0 < sum(right) < 12
    for image, label, moved, was_right in zip(images, labels, found, right, strict=True):
        expected = image.numpy()
        if was_right:
            seen = (expected - mean[0].numpy()) / std[0].numpy()
            # the normalised pixel's gradient is the pixel's times std, so of the same sign
            cut = np.clip(seen + epsilon * np.sign(slow_gradient(model, image, label)), 0, 1)
            expected = cut * std[0].numpy() + mean[0].numpy()
        np.testing.assert_allclose(moved.numpy(), expected, atol=1e-12)


# The protocol


torch.manual_seed(2)
BODY = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), nn.AvgPool2d(5), nn.Flatten())
HEAD = nn.Linear(24, 3)
USUAL = HEAD(BODY(photos(64, (12, 12), torch.float32))).median(dim=0).values.detach()


def scores_of_head(pixels):
    return 20 * (HEAD(BODY(pixels)) - USUAL)


def split_of(count, seed):
    """Labelled as the network sees them: what is lost is lost by the attack."""
    images = photos(count, (12, 12), seed=seed)
    labels = scores_of_head(images / 255).argmax(dim=1).numpy()
    return ArrayImages(images, labels, np.arange(count) * 2 + 50, "test")


def attacked(classifies=True):
    model = Looks(BODY, scores_of_head if classifies else None, ("a", "b", "c") if classifies else None)
    return Features(model, Splits(split_of(90, 1), None, split_of(20, 2), ("a", "b", "c"), "a test"), seed=4)


@pytest.mark.parametrize("classifies", [True, False])
def test_the_protocol_is_attacks_one_by_one(classifies):
    features = attacked(classifies)
    model, images = features.model, features.splits.test
    if classifies:
        scores = model.scores
    else:
        fit = probe_of(features, "test").fit

        def scores(pixels):
            return model.features(pixels).double() @ fit.coefficients.T + fit.bias

    report = Adversarial(fgsm=(0.02, "1/10"), pgd="8/255", steps=3, agmax=0.3).measure(features, "test")
    right = {name: [] for name in ("clean", "fgsm(0.02)", "fgsm(1/10)", "agmax(0.3)", "pgd(8/255)")}
    for position, label in enumerate(images.labels.tolist()):
        pixels, target = images.pixels[[position]] / 255, torch.tensor([label])
        looked = [pixels, *(fgsm(scores, pixels, target, epsilon) for epsilon in (0.02, 0.1))]
        looked.append(fgsm_normalized(scores, pixels, target, 0.3, *model.normalization))
        looked.append(pgd(scores, pixels, target, 8 / 255, 2 / 255, 3, 4, [int(images.index[position])]))
        for name, moved in zip(right, looked, strict=True):
            right[name].append(int(scores(moved).argmax()) == label)
    expected = {name: 100 * sum(each) / 20 for name, each in right.items()}
    assert report.measures == pytest.approx({"": expected["pgd(8/255)"], **expected, "zero_gradients": 0.0})
    assert expected["clean"] > expected["fgsm(1/10)"]
    assert report.tables["accuracy"].rows == tuple((name, pytest.approx(value)) for name, value in expected.items())
    (axes,) = report.draw().axes
    assert [bar.get_width() for bar in axes.patches] == pytest.approx(list(expected.values())[1:])


def test_the_protocol_takes_so_many_images_and_either_attack():
    features = attacked()
    report = Adversarial(fgsm=0.1, pgd=(), images=7).measure(features, "test")
    assert report.measures[""] == report.measures["fgsm(0.1)"]
    assert features.model.rows == 7 * 3  # clean, the gradient, and the image moved
    stepped = Adversarial(fgsm=(), pgd=(0.1, 0.2), steps=1, step="1/255").measure(features, "test")
    assert list(stepped.measures) == ["", "clean", "pgd(0.1)", "pgd(0.2)", "zero_gradients"]
    official = Adversarial(fgsm=(), pgd=(), agmax=(0.5, 0.1)).measure(features, "test")
    assert list(official.measures) == ["", "clean", "agmax(0.5)", "agmax(0.1)", "zero_gradients"]
    assert official.measures[""] == official.measures["agmax(0.5)"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("adversarial(by='knn')", "follows gradients, and the neighbours of knn have none; take by='linear'"),
        ("adversarial(by='probe')", "unknown by 'probe'"),
        ("adversarial(fgsm=(), pgd=())", "nothing is attacked"),
        ("adversarial(fgsm=8)", r"fgsm must be a number in \[0, 1\], got 8"),
        ("adversarial(pgd='8/0')", r"a fraction such as '8/255', got '8/0'"),
        ("adversarial(pgd='eight')", r"a fraction such as '8/255', got 'eight'"),
        ("adversarial(pgd=(0.1, 0.1))", "named twice"),
        ("adversarial(fgsm=('8/255', '16/510'))", "named twice: fgsm="),
        ("adversarial(agmax=(0.1, '1/10'))", "named twice: agmax="),
        ("adversarial(step=None, steps=0)", "steps must be a whole number of at least 1"),
        ("adversarial(step='9/8')", r"step must be a number in \[0, 1\], got 1.125"),
        ("adversarial(images=0)", "images must be a whole number of at least 1"),
    ],
)
def test_settings_that_cannot_be_meant(call, message):
    with pytest.raises(RecipeError, match=message):
        bind(Adversarial, parse_call(call, "evaluate.0"), "evaluate.0")


def test_a_probe_needs_labels():
    bare = ArrayImages(photos(3, (12, 12)), np.full(3, -1), np.arange(3), "train")
    without = Splits(bare, None, split_of(9, 2), ("a", "b", "c"), "a test")
    with pytest.raises(DataError, match="no training image has a label"):
        Adversarial(by="linear").check(without)
    Adversarial().check(without)
