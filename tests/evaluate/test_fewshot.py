"""Few-shot: which tasks are drawn, the optimum that scikit-learn finds, slow loops, and what the interval covers."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from manyview.evaluate.fewshot import CLASSIFIERS, FewShot, _by_regression, episodes, few_shot
from manyview.evaluate.linear import fit_linear


def blobs(classes=8, rows=30, dim=24, apart=0.6, seed=0):
    """Features that are not negative, as after ReLU; labels, not in order and with gaps."""
    draw = np.random.default_rng(seed)
    labels = draw.permutation(np.repeat(np.arange(classes), rows))
    features = np.maximum(0, draw.normal(size=(classes, dim))[labels] * apart + draw.normal(size=(len(labels), dim)))
    return torch.tensor(features, dtype=torch.float32), torch.tensor(3 * labels + 1)


FEATURES, LABELS = blobs()


def parts(task, drawn):
    """One task as NumPy has it: support [n, D], targets [n], query [q, D], truth [q]."""
    support, query = drawn.support[task], drawn.query[task]
    ways = len(support)
    targets, truth = (np.repeat(np.arange(ways), rows.shape[1]) for rows in (support, query))
    x = FEATURES.double().numpy()
    return x[support.flatten()], targets, x[query.flatten()], truth


# --- Which rows


def test_tasks_are_of_different_classes_and_rows_with_the_labels_they_say():
    drawn = episodes(LABELS, 5, 3, 7, 300, seed=1)
    assert drawn.support.shape == (300, 5, 3)
    assert drawn.query.shape == (300, 5, 7)
    rows = torch.cat([drawn.support, drawn.query], dim=2)
    assert torch.equal(LABELS[rows], drawn.classes[:, :, None].expand_as(rows))
    for values in (rows.flatten(1), drawn.classes):
        assert all(len(set(row)) == len(row) for row in values.tolist())
    assert drawn.left_out == ()


def test_every_image_and_every_pair_is_as_likely_as_any_other():
    """chi^2 of k equally likely outcomes is about k +- sqrt(2k)."""
    drawn = episodes(LABELS, 3, 1, 1, 20_000, seed=2)

    def far(counts, outcomes):
        mean = sum(counts) / outcomes
        chi = sum((count - mean) ** 2 for count in counts) / mean
        return (chi - outcomes) / math.sqrt(2 * outcomes)

    for rows in (drawn.support, drawn.query):
        assert abs(far(torch.bincount(rows.flatten(), minlength=240).tolist(), 240)) < 5
    of_first = drawn.classes[:, 0] == 1
    pairs = torch.stack([drawn.support[of_first, 0, 0], drawn.query[of_first, 0, 0]], dim=1)
    counts = pairs.unique(dim=0, return_counts=True)[1].tolist()
    assert abs(far(counts + [0] * (30 * 29 - len(counts)), 30 * 29)) < 5  # ordered pairs of the class's 30


def test_tasks_depend_on_the_seed_alone_and_nest():
    drawn = episodes(LABELS, 5, 5, 10, 50, seed=3)
    again = episodes(LABELS, 5, 5, 10, 50, seed=3)
    assert torch.equal(drawn.support, again.support)
    assert torch.equal(drawn.query, again.query)
    assert not torch.equal(drawn.query, episodes(LABELS, 5, 5, 10, 50, seed=4).query)
    more = episodes(LABELS, 5, 5, 10, 80, seed=3)
    assert torch.equal(drawn.support, more.support[:50])
    fewer = episodes(LABELS, 3, 5, 10, 50, seed=3)
    assert torch.equal(drawn.support[:, :3], fewer.support)
    one = episodes(LABELS, 5, 1, 10, 50, seed=3)
    assert torch.equal(drawn.support[:, :, :1], one.support)
    assert torch.equal(drawn.query, one.query)


def test_tasks_of_a_seed_stay_from_version_to_version():
    drawn = episodes(torch.arange(60) % 6, 2, 2, 3, 2, seed=0)
    assert drawn.support.tolist() == [[[34, 22], [8, 50]], [[3, 39], [43, 55]]]
    assert drawn.query.tolist() == [[[40, 58, 16], [26, 14, 20]], [[15, 57, 27], [19, 25, 7]]]


def test_whole_classes_can_be_used():
    """Ten rows for six shots and four queries: all of each class, in another order each time."""
    drawn = episodes(torch.arange(40) % 4, 4, 6, 4, 30, seed=0)
    rows = torch.cat([drawn.support, drawn.query], dim=2)
    assert torch.equal(rows.flatten(1).sort(dim=1).values, torch.arange(40).expand(30, 40))
    assert len(rows.flatten(1).unique(dim=0)) == 30


def test_small_classes_are_left_out_and_named():
    labels = torch.cat([torch.zeros(5), torch.ones(9), torch.full((10,), 2), torch.full((30,), 7)]).long()
    drawn = episodes(labels, 2, 4, 6, 100, seed=0)
    assert drawn.left_out == (0, 1)
    assert set(drawn.classes.flatten().tolist()) == {2, 7}
    features = torch.randn(len(labels), 3, generator=torch.Generator().manual_seed(0))
    assert few_shot(features, labels, ways=2, shots=4, queries=6, tasks=5).left_out == (0, 1)


# --- Classifiers


def by_scikit(x, y, weight, classifier):
    """scikit-learn minimises C sum CE + |theta|^2 / 2; its liblinear penalises the bias, for softmax a column of ones
    stands for it. Returns rows -> scores."""
    c = 1 / (2 * weight)
    if classifier == "one_vs_rest":
        model = OneVsRestClassifier(LogisticRegression(C=c, solver="liblinear", tol=1e-10, max_iter=10_000)).fit(x, y)
        return lambda rows: np.stack([one.decision_function(rows) for one in model.estimators_], axis=1)

    def wide(rows):
        return np.concatenate([rows, np.ones((len(rows), 1))], axis=1)

    model = LogisticRegression(C=c, fit_intercept=False, solver="newton-cg", tol=1e-10, max_iter=10_000).fit(wide(x), y)
    return lambda rows: model.decision_function(wide(rows))


@pytest.mark.parametrize("weight", [0.005, 0.5, 20.0])
@pytest.mark.parametrize("shots", [1, 5])
@pytest.mark.parametrize("classifier", ["one_vs_rest", "softmax"])
def test_regression_finds_what_scikit_learn_finds(classifier, shots, weight):
    drawn = episodes(LABELS, 5, shots, 10, 6, seed=0)
    support, query = (FEATURES[rows.flatten(1)].double() for rows in (drawn.support, drawn.query))
    scores = _by_regression(support, query, 5, weight, classifier == "softmax")
    found = few_shot(FEATURES, LABELS, shots=shots, queries=10, tasks=6, classifier=classifier, weight=weight)
    for task in range(6):
        x, targets, rows, truth = parts(task, drawn)
        expected = by_scikit(x, targets, weight, classifier)(rows)
        if classifier == "softmax":  # scores are up to a number that all classes share; ours have none
            expected -= expected.mean(axis=1, keepdims=True)
        np.testing.assert_allclose(scores[task].numpy(), expected, rtol=1e-4, atol=1e-5)
        right = 100 * (expected.argmax(axis=1) == truth).mean()
        assert float(found.accuracies[task]) == pytest.approx(right)


def test_softmax_is_the_linear_probe_on_a_task():
    drawn = episodes(LABELS, 4, 5, 10, 3, seed=5)
    support, query = (FEATURES[rows.flatten(1)] for rows in (drawn.support, drawn.query))
    scores = _by_regression(support.double(), query.double(), 4, 0.1, True)
    for task in range(3):
        fit = fit_linear(support[task], torch.arange(4).repeat_interleave(5), 4, 0.1, tolerance=1e-12)
        torch.testing.assert_close(scores[task], fit.scores(query[task]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("unit", [False, True])
def test_centroids_equal_a_slow_loop(unit):
    found = few_shot(FEATURES, LABELS, ways=6, shots=4, queries=5, tasks=40, seed=7, classifier="centroid", unit=unit)
    drawn = episodes(LABELS, 6, 4, 5, 40, seed=7)
    x = FEATURES.double().numpy()
    for task in range(40):
        right = 0
        for way, query in itertools.product(range(6), range(5)):
            distances = []
            for other in range(6):
                rows = [x[row] / (np.linalg.norm(x[row]) if unit else 1) for row in drawn.support[task, other]]
                asked = x[drawn.query[task, way, query]]
                asked = asked / (np.linalg.norm(asked) if unit else 1)
                distances.append(np.linalg.norm(asked - sum(rows) / 4))
            right += int(np.argmin(distances) == way)
        assert float(found.accuracies[task]) == pytest.approx(100 * right / 30)


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_unit_features_have_no_scale(classifier):
    lengths = torch.linspace(0.1, 9, len(FEATURES))[:, None]
    first, other = (
        few_shot(x, LABELS, tasks=50, classifier=classifier, unit=True) for x in (FEATURES, FEATURES * lengths)
    )
    assert torch.equal(first.accuracies, other.accuracies)


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_tasks_do_not_depend_on_those_solved_with_them(classifier, monkeypatch):
    together = few_shot(FEATURES, LABELS, shots=2, tasks=40, classifier=classifier)
    monkeypatch.setattr("manyview.evaluate.fewshot.NUMBERS_AT_ONCE", 1)
    told = []
    alone = few_shot(FEATURES, LABELS, shots=2, tasks=40, classifier=classifier, progress=lambda *at: told.append(at))
    assert torch.equal(together.accuracies, alone.accuracies)
    assert told == [(done, 40) for done in range(1, 41)]


@pytest.mark.parametrize("classifier", ["one_vs_rest", "softmax"])
@pytest.mark.parametrize("scale", [3e-8, 1.0, 1e4])
def test_regression_of_features_of_any_size(classifier, scale):
    """Classes far apart are told apart, whether the penalty is all or nothing, also where rows repeat and the products
    of a task's rows are singular."""
    features, labels = blobs(classes=5, rows=20, apart=6.0)
    twice = features[labels.argsort()][::2].repeat_interleave(2, dim=0)
    for x, y in ((features, labels), (twice, labels.sort().values)):
        assert few_shot(x * scale, y, shots=4, queries=8, tasks=30, classifier=classifier).accuracy > 99


def awkward():
    """Rows of five classes, 5 shots each, that a solver may stumble over: name -> float64 [25, D]."""
    wide = torch.randn(25, 40, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    return {
        "told apart": wide,
        "not told apart": wide[:, :3],
        "on a line": wide[:, :1] * torch.linspace(-1, 1, 40, dtype=torch.float64),
        "each row of two classes": torch.cat([wide[:13], wide[1:13]]),
        "columns of unlike size": wide[:, :20] * torch.logspace(-4, 4, 20, dtype=torch.float64),
    }


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("rows", awkward())
def test_the_minimum_is_found_of_any_features(rows, joint, scale):
    """Half of g' H^-1 g, which autograd tells, is what is left to the minimum. Weights are V u, u in units of the
    singular values that V belongs to: without that, their gradient would be rounding times the scale."""
    support, weight = awkward()[rows] * scale, 0.5
    large = support.abs().amax(dim=0)
    large = large.maximum(1 / large)  # scores of rows with one such number are near 1, whether weights are 1 / x or x
    asked = torch.cat([torch.zeros_like(support[:1]), large.diag()])
    bias, weights = _by_regression(support[None], asked[None], 5, weight, joint)[0].T.split([1, len(large)], dim=1)
    theta = torch.cat([(weights - bias) / large, bias], dim=1)
    wide, own = torch.cat([support, torch.ones(25, 1)], dim=1), torch.eye(5).bool().repeat_interleave(5, dim=0)
    _, size, basis = torch.linalg.svd(wide, full_matrices=False)
    unit = torch.hypot(size, torch.ones_like(size))

    def objective(u):
        scores = wide @ (basis.T / unit) @ u.view(5, -1).T
        if joint:
            wrong = (scores - scores[own][:, None]).masked_fill(own, -math.inf).logsumexp(dim=1)
        else:
            wrong = torch.where(own, -scores, scores)
        loss = -F.logsigmoid(-wrong).sum()
        return loss + weight * (u.view(5, -1) / unit).square().sum()

    u = (theta @ basis.T * unit).flatten()
    gradient, hessian = torch.func.grad(objective)(u), torch.func.hessian(objective)(u)
    left = float(gradient @ torch.linalg.solve(hessian, gradient)) / 2
    assert 0 <= left <= 1e-9 * float(objective(u))


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_what_tells_nothing_is_right_by_chance(classifier):
    noise = torch.randn(240, 10, generator=torch.Generator().manual_seed(1))
    found = few_shot(noise, LABELS, shots=2, tasks=400, classifier=classifier)
    assert found.accuracy == pytest.approx(20, abs=2)


# --- The interval


def test_interval_by_hand():
    """Mean 50, squares 400 + 0 + 400 over 2: sd 20."""
    found = FewShot(torch.tensor([30.0, 50.0, 70.0], dtype=torch.float64), ())
    assert found.accuracy == 50
    assert found.half_width == pytest.approx(1.96 * 20 / math.sqrt(3))


def test_interval_covers_the_mean_over_all_tasks():
    """Two classes of 12 numbers, one shot: the mean over all tasks is one over all 144 supports and the 22 queries left
    to each. Of 500 intervals 95 % +- 1 % (one binomial sd) cover it; four of these are allowed, and of few tasks the
    normal interval is a little short."""
    draw = np.random.default_rng(0)
    values = np.concatenate([draw.normal(0, 1, 12), draw.normal(1, 1, 12)])
    labels = np.repeat([0, 1], 12)
    right = []
    for first, second in itertools.product(range(12), range(12, 24)):
        for query in set(range(24)) - {first, second}:
            nearer = int(abs(values[query] - values[second]) < abs(values[query] - values[first]))
            right.append(nearer == labels[query])
    mean = 100 * np.mean(right)
    features = torch.tensor(values)[:, None]
    covered = 0
    for seed in range(500):
        found = few_shot(features, torch.tensor(labels), ways=2, queries=3, tasks=60, seed=seed, classifier="centroid")
        covered += abs(found.accuracy - mean) <= found.half_width
    sd = math.sqrt(0.95 * 0.05 / 500)
    assert 0.95 - 5 * sd < covered / 500 < 0.95 + 4 * sd


# --- Mistakes

ERRORS = {
    "unlike length": ({"labels": LABELS[:5]}, r"features \[N, D\] and labels \[N\].*\(240, 24\) and \(5,\)"),
    "not finite": ({"features": FEATURES / 0}, "not finite"),
    "one class": ({"labels": LABELS * 0}, "5 ways need as many classes.*of 1 classes 1"),
    "fewer classes than ways": ({"ways": 9}, "9 ways need as many classes.*of 8 classes 8"),
    "too few images": ({"shots": 20}, r"classes with 36 rows \(20 shots and 16 queries\); of 8 classes 0"),
    "no shots": ({"shots": 0}, "shots must be at least 1, got 0"),
    "one way": ({"ways": 1}, "ways must be at least 2, got 1"),
    "no queries": ({"queries": 0}, "queries must be at least 1, got 0"),
    "one task": ({"tasks": 1}, "tasks must be at least 2"),
    "no label": ({"labels": LABELS - 2}, "label -1 is negative"),
    "classifier": ({"classifier": "svm"}, "one of one_vs_rest, softmax, centroid, got 'svm'"),
    "weight": ({"weight": 0}, "weight must be positive, got 0"),
    "too large": (
        {"features": FEATURES.double() * 1e200, "classifier": "softmax", "tasks": 2},
        "does not converge.*unit=True",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_mistakes(case):
    given, match = ERRORS[case]
    with pytest.raises(ValueError, match=match):
        few_shot(**({"features": FEATURES, "labels": LABELS, "tasks": 10} | given))


def test_episodes_refuse_what_few_shot_cannot_reach():
    with pytest.raises(ValueError, match="tasks must be at least 1, got 0"):
        episodes(LABELS, 5, 1, 16, 0, seed=0)
    with pytest.raises(ValueError, match=r"labels \[N\], got \(240, 1\)"):
        episodes(LABELS[:, None], 5, 1, 16, 1, seed=0)
