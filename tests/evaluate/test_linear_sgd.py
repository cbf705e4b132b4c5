"""The SGD probe: its arithmetic against a slow loop, the sweep against each rate alone, and what is chosen."""

import math

import numpy as np
import pytest
import torch

from manyview import parse_recipe
from manyview.data import ArrayImages, Splits
from manyview.errors import DataError
from manyview.evaluate.accuracy import accuracy
from manyview.evaluate.features import Features
from manyview.evaluate.linear import METRICS, fit_linear, held_out
from manyview.evaluate.linear_sgd import LRS, LinearSgd, sgd_probe
from manyview.evaluate.model import StepModel
from manyview.evaluate.rows import Rows, Store
from manyview.step import Step
from manyview.views.draws import order_of


def blobs(rows, dim=6, classes=3, apart=1.0, seed=0, present=None):
    """Features around a mean a class; labels of the classes present."""
    drawn = np.random.default_rng(seed)
    labels = drawn.permutation(np.resize(range(classes) if present is None else present, rows))
    means = np.random.default_rng(99).normal(size=(classes, dim)) * apart
    return torch.tensor(means[labels] + drawn.normal(size=(rows, dim)), dtype=torch.float32), torch.tensor(labels)


def begun(classes, dim, seed):
    """The first weights: those that a rate too small to move them leaves."""
    x, y = blobs(4 * classes, dim, classes)
    return sgd_probe(x, y, x, y, classes, lrs=[1e-30], epochs=1, seed=seed).coefficients.double().numpy()


def slow(x, y, w, lr, epochs, batch_size, weight_decay, momentum, milestones, seed):
    """Row by row, parameter by parameter, as torch.optim.SGD is defined; w [C, D] with biases of 0."""
    w = np.concatenate([w, np.zeros((len(w), 1))], axis=1)
    x, y = np.concatenate([x.double().numpy(), np.ones((len(x), 1))], axis=1), y.tolist()
    velocity = np.zeros_like(w)
    for epoch in range(epochs):
        rate = lr
        for milestone in milestones:
            if epoch >= milestone:
                rate = rate / 10
        order = order_of(seed, epoch, len(x))
        for start in range(0, len(x), batch_size):
            batch = order[start : start + batch_size]
            gradient = np.zeros_like(w)
            for row in batch:
                scores = w @ x[row]
                chances = np.exp(scores - scores.max())
                chances /= chances.sum()
                for c in range(len(w)):
                    gradient[c] += (chances[c] - (c == y[row])) * x[row] / len(batch)
            velocity = momentum * velocity + gradient + weight_decay * w
            w = w - rate * velocity
    return w[:, :-1], w[:, -1]


@pytest.mark.parametrize("rows", [20, 8, 5])  # whole and partial batches
@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 1, "weight_decay": 0.0, "momentum": 0.9, "milestones": ()},
        {"epochs": 6, "weight_decay": 0.0, "momentum": 0.9, "milestones": (3, 5)},
        {"epochs": 4, "weight_decay": 0.02, "momentum": 0.5, "milestones": (1, 1, 9)},
    ],
)
def test_steps_are_those_of_a_slow_loop(rows, settings):
    x, y = blobs(rows, seed=1)
    probe = sgd_probe(x, y, x, y, 3, lrs=[0.4], batch_size=8, seed=5, **settings)
    weights, bias = slow(x, y, begun(3, 6, 5), 0.4, batch_size=8, seed=5, **settings)
    np.testing.assert_allclose(probe.coefficients, weights, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(probe.bias, bias, rtol=1e-4, atol=1e-5)


def test_the_defaults_are_the_papers():
    """A hundred epochs in batches of 256, the rate divided by 10 after 60 and after 80."""
    x, y = blobs(300, apart=0.5, seed=2)
    probe = sgd_probe(x, y, x, y, 3, lrs=[0.5])
    weights, bias = slow(x, y, begun(3, 6, 0), 0.5, 100, 256, 0.0, 0.9, (60, 80), 0)
    np.testing.assert_allclose(probe.coefficients, weights, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(probe.bias, bias, rtol=1e-3, atol=1e-4)
    assert (LinearSgd().batch_size, LinearSgd().epochs, LinearSgd().weight_decay) == (256, 100, 0)
    assert 30 in LRS


def test_first_weights_are_normal_and_small():
    drawn = begun(20, 400, 3)
    assert drawn.std() == pytest.approx(0.01, rel=0.03)
    assert abs(drawn.mean()) < 4 * 0.01 / math.sqrt(drawn.size)
    assert np.mean(np.abs(drawn) < 0.01) == pytest.approx(0.6827, abs=0.02)
    assert not np.array_equal(begun(20, 400, 4), drawn)


def test_a_sweep_is_each_rate_alone():
    """And the order in which rates are given does not matter."""
    x, y = blobs(100, apart=0.6, seed=3)
    held, held_labels = blobs(200, apart=0.6, seed=4)
    options = {"epochs": 5, "batch_size": 32, "milestones": (3,), "seed": 1}
    rates = [3.0, 0.001, 0.1]
    together = sgd_probe(x, y, held, held_labels, 3, lrs=rates, **options)
    assert list(together.accuracies) == sorted(rates)
    for lr in rates:
        alone = sgd_probe(x, y, held, held_labels, 3, lrs=[lr], **options)
        assert together.accuracies[lr] == alone.accuracies[lr]
        assert alone.accuracies[lr] == accuracy(alone.scores(held), held_labels)["top1"]
        if lr == together.lr:
            torch.testing.assert_close(together.coefficients, alone.coefficients)
            torch.testing.assert_close(together.bias, alone.bias)


def test_the_same_seed_gives_the_same_bits_whatever_else_is_drawn():
    x, y = blobs(150, seed=5)
    options = {"lrs": [0.1, 1.0], "epochs": 3, "batch_size": 16, "milestones": ()}
    torch.manual_seed(0)
    first = sgd_probe(x, y, x, y, 3, seed=7, **options)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    again = sgd_probe(x, y, x, y, 3, seed=7, **options)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.coefficients, again.coefficients)
    assert torch.equal(first.bias, again.bias)
    assert (first.lr, first.accuracies) == (again.lr, again.accuracies)
    other = sgd_probe(x, y, x, y, 3, seed=8, **options)
    assert not torch.equal(first.coefficients, other.coefficients)


@pytest.mark.parametrize("metric", METRICS)
def test_the_rate_is_chosen_on_what_is_held_out(metric):
    x, y = blobs(60, dim=30, apart=0.25, seed=1)
    held, held_labels = blobs(300, dim=30, apart=0.25, seed=2, present=[0, 0, 0, 0, 1, 2])
    probe = sgd_probe(x, y, held, held_labels, 3, lrs=LRS, epochs=20, milestones=(12, 16), metric=metric)
    best = max(probe.accuracies.values())
    assert min(probe.accuracies.values()) < best
    assert probe.lr == min(lr for lr, value in probe.accuracies.items() if value == best)
    assert best == pytest.approx(accuracy(probe.scores(held), held_labels)[metric])


def test_long_training_comes_near_the_optimum():
    """Of the loss alone: where classes overlap it has a minimum."""
    x, y = blobs(400, apart=0.3, seed=6)
    probe = sgd_probe(x, y, x, y, 3, lrs=[1.0], epochs=60, milestones=(30, 45), batch_size=64)
    optimum = fit_linear(x, y, 3, 1e-6)
    reached = accuracy(probe.scores(x), y)["loss"]
    assert optimum.loss / 400 <= reached <= optimum.loss / 400 * 1.001


def test_what_overflows_is_not_chosen():
    x, y = blobs(64, seed=7)
    options = {"epochs": 40, "milestones": (), "batch_size": 8, "weight_decay": 1.0}
    probe = sgd_probe(x, y, x, y, 3, lrs=[0.01, 1e6], **options)
    assert math.isnan(probe.accuracies[1e6])
    assert probe.lr == 0.01
    with pytest.raises(ValueError, match=r"^at no rate of 1e\+06 the weights stay finite; lower them$"):
        sgd_probe(x, y, x, y, 3, lrs=[1e6], **options)


def test_progress_and_inputs_left_alone():
    x, y = blobs(40, seed=8)
    kept, half, seen = x.clone(), x.half(), []
    probe = sgd_probe(x, y, x, y, 3, lrs=[1.0], epochs=3, milestones=(), progress=lambda *at: seen.append(at))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert torch.equal(x, kept)
    low = sgd_probe(half, y.int(), half, y, 3, lrs=[1.0], epochs=3, milestones=())
    assert low.coefficients.dtype == torch.float32
    expected = sgd_probe(half.float(), y, half, y, 3, lrs=[1.0], epochs=3, milestones=())
    assert torch.equal(low.coefficients, expected.coefficients)
    assert not torch.equal(low.coefficients, probe.coefficients)


X, Y = torch.randn(6, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 1, 2])
BAD = X.clone().index_fill_(0, torch.tensor([4]), math.nan)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ((X, Y[:5], X, Y), {}, r"^expected features \[N, D\] and labels \[N\], got \(6, 2\) and \(5,\)$"),
        ((X, Y, X, Y[:2]), {}, r"got \(6, 2\) and \(2,\)$"),
        ((X, Y, X[:, :1], Y), {}, r"^features \(6, 2\) and \(6, 1\) are of unlike width$"),
        ((X, Y, X[:0], Y[:0]), {}, r"^no rows are held out to choose the rate on$"),
        ((X, Y, BAD, Y), {}, r"^features hold values that are not finite$"),
        ((BAD, Y, X, Y), {}, r"^features hold values that are not finite$"),
        ((X, Y + 1, X, Y), {}, r"^label 3 is outside \[0, 3\)$"),
        ((X, Y * 0, X, Y), {}, r"^labels are of fewer than two classes; there is nothing to tell apart$"),
        ((X, Y, X, Y), {"lrs": []}, r"^no lr is given$"),
        ((X, Y, X, Y), {"lrs": [1.0, 0.0]}, r"^lr must be positive, .* got 0.0$"),
        ((X, Y, X, Y), {"lrs": [math.nan]}, r"^lr must be positive, .* got nan$"),
        ((X, Y, X, Y), {"metric": "top3"}, r"^unknown metric 'top3'; did you mean 'top1'\? metrics: class_mean, top1$"),
        ((X, Y, X, Y), {"epochs": 0}, r"^epochs must be a whole number of at least 1, got 0$"),
        ((X, Y, X, Y), {"batch_size": 0}, r"^batch_size must be a whole number of at least 1, got 0$"),
        ((X, Y, X, Y), {"momentum": 1.0}, r"^momentum must be in \[0, 1\), got 1.0$"),
        ((X, Y, X, Y), {"weight_decay": -1.0}, r"^weight_decay must be a number of at least 0, got -1.0$"),
        ((X, Y, X, Y), {"milestones": (0,)}, r"^a milestone must be a whole number of at least 1, got 0$"),
    ],
)
def test_what_is_refused(rows, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        sgd_probe(*rows, 3, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("lr", ["30", True, 0, -1, (), (1, "2"), [math.inf]])
def test_rates_that_cannot_be_meant(lr):
    with pytest.raises(ValueError, match="lr"):
        LinearSgd(lr=lr)


def test_settings_of_the_protocol():
    assert LinearSgd(lr=[1, 2]) == LinearSgd(lr=(1, 2))
    assert hash(LinearSgd(lr=[1, 2])) == hash(LinearSgd(lr=(1, 2)))
    for wrong in ({"epochs": 0}, {"batch_size": 2.5}, {"weight_decay": -1}, {"metric": "top3"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            LinearSgd(**wrong)


RECIPE = """
views: {a: {from: image, make: flip(0.5)}, b: {like: a}}
branches: {net: {backbone: cresnet20, normalize: half}}
relations: ["similarity(h(a), h(b))"]
train: {epochs: 1}
"""


def split(name, count, seed):
    """Noise whose brightness tells the class."""
    drawn = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    pixels = (torch.rand(count, 3, 8, 8, generator=drawn) * 100 + 50 * labels[:, None, None, None]).to(torch.uint8)
    return ArrayImages(pixels, labels.numpy(), np.arange(count), split=name)


@pytest.mark.parametrize("judged", ["val", "test"])
def test_the_protocol_is_the_function_on_frozen_features(judged):
    splits = Splits(split("train", 60, 1), split("val", 30, 2), split("test", 30, 3), tuple("abc"), "60 train")
    features = Features(StepModel(Step(parse_recipe(RECIPE), 3), "abc"), splits, seed=4)
    protocol = LinearSgd(lr=(0.01, 1), epochs=10, batch_size=16, metric="class_mean")
    protocol.check(splits)
    report = protocol.measure(features, judged)
    fitted, held = held_out(features, judged)
    assert len(fitted[1]) == (60 if judged == "test" else 54)  # val is what is judged: a tenth of train is held out
    options = {"lrs": (0.01, 1), "epochs": 10, "batch_size": 16, "milestones": (6, 8), "metric": "class_mean"}
    probe = sgd_probe(*fitted, *held, 3, seed=4, **options)
    outputs = features.of(judged)
    assert report.measures == {
        "": accuracy(probe.scores(outputs.features), outputs.labels)["class_mean"],
        "lr": probe.lr,
    }
    assert report.tables["rates"].rows == tuple(probe.accuracies.items())
    assert report.measures[""] > 50


def test_data_that_none_can_be_held_out_of():
    one = split("train", 3, 1)
    with pytest.raises(DataError, match=r"^evaluate: linear_sgd holds out training images"):
        LinearSgd().check(Splits(one, None, one, tuple("abc"), "3 train"))
    protocol, splits = LinearSgd(lr=0.1, epochs=4), Splits(one, None, split("test", 30, 2), tuple("abc"), "3 train")
    protocol.check(splits)  # one rate needs none
    features = Features(StepModel(Step(parse_recipe(RECIPE), 3), "abc"), splits, seed=4)
    report, train, test = protocol.measure(features, "test"), features.of("train"), features.of("test")
    probe = sgd_probe(
        train.features, train.labels, train.features, train.labels, 3, lrs=[0.1], epochs=4, milestones=(2, 3), seed=4
    )
    assert report.measures == {"": accuracy(probe.scores(test.features), test.labels)["top1"], "lr": 0.1}
    assert report.tables == {}


def test_rows_in_a_file_give_the_same_bits():
    (features, labels), (held, held_labels) = blobs(700, seed=1), blobs(300, seed=2)
    options = {"lrs": (0.1, 1.0), "epochs": 3, "milestones": (2,), "batch_size": 64}
    stored = []
    for rows in (features, held):
        store = Store(len(rows), memory=0)
        for part in rows.split(130):
            store.add(part)
        stored.append(Rows(store.lying()))
    one = sgd_probe(features, labels, held, held_labels, 3, **options)
    two = sgd_probe(stored[0], labels, stored[1], held_labels, 3, **options)
    assert torch.equal(one.coefficients, two.coefficients)
    assert (one.bias.tolist(), one.accuracies) == (two.bias.tolist(), two.accuracies)
