"""The linear probe: the optimum that scikit-learn finds, the path of penalties, and what is chosen."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from manyview.evaluate.accuracy import accuracy
from manyview.evaluate.linear import METRICS, WEIGHTS, fit_linear, fit_path, linear_probe
from manyview.evaluate.logistic import Fit
from manyview.evaluate.rows import Mapped, Rows, Store


def blobs(rows, dim, classes, apart=1.0, seed=0, present=None):
    """Features of unlike scales around a mean a class; labels of the classes present."""
    drawn = np.random.default_rng(seed)
    labels = drawn.permutation(np.resize(range(classes) if present is None else present, rows))
    means = np.random.default_rng(99).normal(size=(classes, dim)) * apart
    scales = np.logspace(-2, 1, dim)
    features = (means[labels] + drawn.normal(size=(rows, dim)) + 0.3) * scales
    return torch.tensor(features, dtype=torch.float32), torch.tensor(labels)


def objective(theta, features, labels, weight):
    """The module docstring's formula in NumPy; theta [classes, D + 1], the bias last."""
    rows = np.concatenate([features.double().numpy(), np.ones((len(features), 1))], axis=1)
    scores = rows @ theta.T
    highest = scores.max(axis=1)
    losses = np.log(np.exp(scores - highest[:, None]).sum(axis=1)) + highest - scores[range(len(rows)), labels]
    return losses.sum() + weight * (theta**2).sum()


def theta_of(fit):
    return torch.cat([fit.coefficients, fit.bias[:, None]], dim=1).numpy()


def by_scikit(features, labels, weight):
    """scikit-learn minimises C sum CE + |theta|^2 / 2, and a column of ones lets it penalise the bias."""
    rows = np.concatenate([features.double().numpy(), np.ones((len(features), 1))], axis=1)
    model = LogisticRegression(C=1 / (2 * weight), fit_intercept=False, solver="newton-cg", tol=1e-10, max_iter=2000)
    return model.fit(rows, labels.numpy()).coef_


CASES = {
    "overlapping": blobs(300, 12, 4, apart=0.3),
    "separable": blobs(120, 20, 3, apart=3.0),
    "wider than long": blobs(40, 60, 5),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("weight", [1e-6, 1e-4, 1e-2, 1.0, 1e2, 1e5])
def test_the_optimum_is_that_of_scikit_learn(name, weight):
    features, labels = CASES[name]
    classes = int(labels.max()) + 1
    fit = fit_linear(features, labels, classes, weight)
    theta = theta_of(fit)
    assert fit.loss == pytest.approx(objective(theta, features, labels, weight), rel=1e-12)
    theirs = objective(by_scikit(features, labels, weight), features, labels, weight)
    assert fit.loss <= theirs * (1 + 1e-6)
    if weight >= 1e-4:  # below, theirs ends early
        assert fit.loss == pytest.approx(theirs, rel=1e-6)
    assert fit.coefficients.dtype == torch.float64
    assert fit.coefficients.shape == (classes, features.shape[1])
    assert theta.sum(axis=0) == pytest.approx(0, abs=1e-9 * np.abs(theta).max())


@pytest.mark.parametrize("name", CASES)
def test_the_gap_bounds_how_far_the_optimum_is(name):
    """A loose fit's loss is above the optimum by no more than it says; a tight one's bound is tight."""
    features, labels = CASES[name]
    classes = int(labels.max()) + 1
    for weight in (1e-3, 1e-1, 10.0):
        loose = fit_linear(features, labels, classes, weight, tolerance=0.1)
        tight = fit_linear(features, labels, classes, weight, tolerance=1e-12)
        assert tight.gap < 1e-6
        assert loose.loss >= tight.loss * (1 - tight.gap)
        assert loose.loss - tight.loss <= (loose.gap + 1e-12) * loose.loss


@pytest.mark.parametrize("name", CASES)
def test_the_path_follows_the_optimum(name):
    features, labels = CASES[name]
    classes = int(labels.max()) + 1
    path = list(fit_path(features, labels, classes))
    assert [fit.weight for fit in path] == sorted(WEIGHTS, reverse=True)
    for fit in path[::4]:
        least = fit_linear(features, labels, classes, fit.weight).loss
        assert least * (1 - 1e-8) <= fit.loss <= least * (1 + 5e-3)
    sizes = [float(fit.coefficients.square().sum() + fit.bias.square().sum()) for fit in path]
    assert sizes == sorted(sizes)  # of weaker penalties


def test_the_weights_are_those_of_the_paper():
    assert len(WEIGHTS) == 45
    assert (min(WEIGHTS), max(WEIGHTS)) == (1e-6, 1e5)
    assert np.diff(np.log10(WEIGHTS)) == pytest.approx(0.25)


def test_scale_of_features_and_penalty_go_together():
    """Without a bias to speak of: features ten times larger with coefficients ten times smaller."""
    features, labels = CASES["overlapping"]
    mirrored, twice = torch.cat([features, -features]), torch.cat([labels, (labels + 1) % 4])
    one, ten = fit_linear(mirrored, twice, 4, 0.5), fit_linear(10 * mirrored, twice, 4, 50.0)
    free_one, free_ten = fit_linear(mirrored, twice, 4, 1e-3), fit_linear(10 * mirrored, twice, 4, 1e-3)
    assert ten.coefficients * 10 == pytest.approx(one.coefficients, abs=0.02 * float(one.coefficients.abs().max()))
    assert free_ten.loss < free_one.loss  # the penalty weighs less on larger features


@pytest.mark.parametrize("metric", METRICS)
def test_the_weight_is_chosen_on_what_is_held_out(metric):
    features, labels = blobs(90, 30, 3, apart=0.25, seed=1)
    held, held_labels = blobs(200, 30, 3, apart=0.25, seed=2, present=[0, 0, 0, 0, 1, 2])
    probe = linear_probe(features, labels, held, held_labels, 3, metric=metric)
    for fit in fit_path(features, labels, 3):
        assert probe.accuracies[fit.weight] == accuracy(fit.scores(held), held_labels)[metric]
    best = max(probe.accuracies.values())
    assert probe.weight == max(weight for weight, value in probe.accuracies.items() if value == best)
    assert min(probe.accuracies.values()) < best
    # then all rows are fitted
    whole = fit_linear(torch.cat([features, held]), torch.cat([labels, held_labels]), 3, probe.weight)
    assert probe.fit.loss == pytest.approx(whole.loss, rel=1e-7)
    test, _ = blobs(50, 30, 3, seed=3)
    torch.testing.assert_close(probe.fit.scores(test), whole.scores(test), rtol=1e-3, atol=1e-3)


def test_metrics_can_choose_differently():
    """Nine tenths are of class 0: always saying 0 is right 9 times of 10, and in one class of two."""
    drawn = torch.Generator().manual_seed(0)
    labels = (torch.arange(400) % 10 == 0).long()
    features = torch.randn(400, 1, generator=drawn) + 1.2 * labels[:, None]
    top1 = linear_probe(features, labels, features, labels, 2)
    mean = linear_probe(features, labels, features, labels, 2, metric="class_mean")
    assert (top1.accuracies[1e5], mean.accuracies[1e5]) == (pytest.approx(90), pytest.approx(50))
    assert max(mean.accuracies.values()) > 50


def test_a_class_without_rows_is_never_predicted():
    features, labels = blobs(80, 6, 4, present=[0, 1, 3])
    fit = fit_linear(features, labels, 4, 1e-2)
    assert 2 not in fit.scores(features).argmax(dim=1)


def test_scores_and_inputs():
    features, labels = CASES["overlapping"]
    kept = features.half()
    fit = fit_linear(kept, labels.int(), 4, 1.0)
    assert fit.loss == fit_linear(kept.float(), labels, 4, 1.0).loss
    assert torch.equal(kept, features.half())
    expected = features[:7].double().numpy() @ fit.coefficients.numpy().T + fit.bias.numpy()
    np.testing.assert_allclose(fit.scores(features[:7]), expected, rtol=1e-12)
    again = [fit_linear(features, labels, 4, 1.0) for _ in range(2)]
    assert torch.equal(again[0].coefficients, again[1].coefficients)


X, Y = torch.randn(6, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 1, 2])
BAD = X.clone().index_fill_(0, torch.tensor([4]), math.nan)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: fit_linear(X, Y[:5], 3, 1.0),
            r"^expected features \[N, D\] and labels \[N\], got \(6, 2\) and \(5,\)$",
        ),
        (lambda: fit_linear(X[0], Y, 3, 1.0), r"got \(2,\) and \(6,\)$"),
        (lambda: fit_linear(X, Y, 2, 1.0), r"^label 2 is outside \[0, 2\)$"),
        (lambda: fit_linear(X, torch.ones(6).long(), 3, 1.0), r"^labels are of fewer than two classes"),
        (lambda: fit_linear(X[:0], Y[:0], 3, 1.0), r"^labels are of fewer than two classes"),
        (lambda: fit_linear(BAD, Y, 3, 1.0), r"^features hold values that are not finite$"),
        (lambda: fit_linear(X, Y, 3, 0.0), r"^weights must be positive, got 0.0$"),
        (lambda: fit_linear(X, Y, 3, math.nan), r"^weights must be positive, got nan$"),
        (lambda: list(fit_path(X, Y, 3, [1.0, -1.0])), r"^weights must be positive, got -1.0$"),
        (lambda: list(fit_path(X, Y, 3, [])), r"^no weights are given$"),
        (
            lambda: linear_probe(X, Y, X, Y, 3, metric="top3"),
            r"^metric must be one of top1, class_mean, got 'top3'$",
        ),
        (lambda: linear_probe(X, Y, X[:0], Y[:0], 3), r"^no rows are held out to choose the penalty on$"),
        (lambda: linear_probe(X, Y, X[:, :1], Y, 3), r"^features \(6, 2\) and \(6, 1\) are of unlike width$"),
        (lambda: linear_probe(X, Y, X, Y[:2], 3), r"got \(6, 2\) and \(2,\)$"),
        (lambda: linear_probe(X, Y, BAD, Y, 3), r"not finite$"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_fits_are_frozen():
    fit = fit_linear(X, Y, 3, 1.0)
    assert isinstance(fit, Fit)
    with pytest.raises(AttributeError):
        fit.weight = 2.0


@pytest.mark.parametrize("weight", [1e-6, 0.5, 1e5])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_classes_far_apart_are_told_apart_at_any_scale(scale, weight):
    """Where features are tiny the optimum is near 0, where all classes score alike, and within any tolerance of it."""
    labels = torch.arange(120) % 4
    noise = torch.randn(120, 12, generator=torch.Generator().manual_seed(0))
    features = scale * (noise + 8 * torch.nn.functional.one_hot(labels, 12))
    fit = fit_linear(features, labels, 4, weight)
    assert torch.equal(fit.scores(features).argmax(dim=1), labels)


def test_rows_in_a_file_give_the_same_bits(tmp_path):
    """More blocks than one, nothing held in memory; and within rounding what one block, all at once, gives."""
    (features, labels), (held, held_labels) = (blobs(rows, 6, 3, apart=0.4, seed=rows) for rows in (9000, 4500))
    stored = []
    for rows in (features, held):
        store = Store(len(rows), memory=0)
        for part in rows.split(700):
            store.add(part)
        stored.append(Rows(store.lying()))
    assert isinstance(stored[0].parts[0], Mapped)
    weights = (1e-2, 1.0, 1e2)
    one = linear_probe(features, labels, held, held_labels, 3, weights=weights)
    two = linear_probe(stored[0], labels, stored[1], held_labels, 3, weights=weights, memory=0)
    assert two.accuracies == one.accuracies
    assert torch.equal(two.fit.coefficients, one.fit.coefficients)
    assert torch.equal(two.fit.scores(stored[1]), one.fit.scores(held))
    shuffled = torch.randperm(13_500, generator=torch.Generator().manual_seed(0))
    both = Rows(*stored).chosen(shuffled)
    again = fit_linear(both, torch.cat([labels, held_labels])[shuffled], 3, one.weight, memory=0)
    assert again.loss == pytest.approx(one.fit.loss, rel=1e-9)  # rows in another order: the optimum to its tolerance
