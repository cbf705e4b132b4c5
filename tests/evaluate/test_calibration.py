"""Calibration: worked examples, slow references in NumPy, what must not matter, and temperatures that are known."""

import itertools
import math

import numpy as np
import pytest
import torch

from manyview.evaluate.calibration import (
    TEMPERATURES,
    Floor,
    brier_score,
    calibration,
    calibration_floor,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability,
)

# Confidences 0.4, 0.5, 0.9, 0.8; right, wrong, right, right.
ROWS = torch.tensor([[0.4, 0.3, 0.3], [0.5, 0.25, 0.25], [0.9, 0.1, 0.0], [0.1, 0.8, 0.1]], dtype=torch.float64)
LABELS = torch.tensor([0, 1, 0, 1])


def drawn(rows, classes, seed=0, sharpness=1.0):
    """Probabilities and labels that follow them."""
    draw = np.random.default_rng(seed)
    probabilities = draw.dirichlet(np.full(classes, sharpness), size=rows)
    labels = (probabilities.cumsum(axis=1) < draw.random((rows, 1))).sum(axis=1).clip(max=classes - 1)
    return torch.tensor(probabilities), torch.tensor(labels)


def slow_bins(probabilities, labels, bins, equal_mass):
    """Count, mean confidence and accuracy of each bin, row by row."""
    inside = [[] for _ in range(bins)]
    confidences = [max(row) for row in probabilities]
    for row, label, confidence in zip(probabilities, labels, confidences, strict=True):
        if equal_mass:
            at = math.floor(bins * sum(other < confidence for other in confidences) / len(labels))
        else:
            at = next(b for b in range(bins) if confidence <= (b + 1) / bins or b == bins - 1)
        inside[at].append((confidence, float(np.argmax(row) == label)))
    means = [np.mean(found, axis=0) if found else (math.nan, math.nan) for found in inside]
    return [len(found) for found in inside], *map(list, zip(*means, strict=True))


def slow_error(probabilities, labels, bins, equal_mass):
    counts, confidence, accuracy = slow_bins(probabilities, labels, bins, equal_mass)
    parts = zip(counts, confidence, accuracy, strict=True)
    return sum(n / len(labels) * abs(a - c) for n, c, a in parts if n)


def slow_loss(logits, labels, temperature):
    """Mean of -log softmax(logits / T) at the label."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    highest = scaled.max(axis=1, keepdims=True)
    return float(
        (np.log(np.exp(scaled - highest).sum(axis=1)) + highest[:, 0] - scaled[range(len(labels)), labels]).mean()
    )


def test_equal_width_by_hand():
    """Two bins: 0.4 and 0.5 (one right) in (0, 1/2], 0.9 and 0.8 (both right) in (1/2, 1]."""
    found = reliability(ROWS, LABELS, 2)
    assert found.counts.tolist() == [2, 2]
    assert found.confidence.tolist() == pytest.approx([0.45, 0.85])
    assert found.accuracy.tolist() == [0.5, 1.0]
    assert float(found.error) == pytest.approx(0.5 * 0.05 + 0.5 * 0.15)


def test_equal_mass_by_hand():
    """Three bins of four rows by their place: floor(3 r / 4) = 0, 0, 1, 2, so 0.4 with 0.5, then 0.8, then 0.9."""
    found = reliability(ROWS, LABELS, 3, equal_mass=True)
    assert found.counts.tolist() == [2, 1, 1]
    assert found.confidence.tolist() == pytest.approx([0.45, 0.8, 0.9])
    assert found.accuracy.tolist() == [0.5, 1.0, 1.0]
    assert float(found.error) == pytest.approx(0.5 * 0.05 + 0.25 * 0.2 + 0.25 * 0.1)


def test_scores_by_hand():
    """Row by row: (-.6, .3, .3), (.5, -.75, .25), (-.1, .1, 0) and (.1, -.2, .1) squared; labels get .4 .25 .9 .8."""
    assert float(brier_score(ROWS, LABELS)) == pytest.approx((0.54 + 0.875 + 0.02 + 0.06) / 4)
    assert float(negative_log_likelihood(ROWS, LABELS)) == pytest.approx(-math.log(0.4 * 0.25 * 0.9 * 0.8) / 4)


def test_extremes():
    sure, right, wrong = torch.eye(3), torch.tensor([0, 1, 2]), torch.tensor([1, 2, 0])
    assert list(calibration(sure, right).values()) == [0, 0, 0, 0, 0]
    assert list(calibration(sure, wrong).values()) == [1, 1, 1, 2, math.inf]
    even = torch.full((4, 4), 0.25)
    assert float(brier_score(even, torch.arange(4))) == pytest.approx(0.75)
    assert float(negative_log_likelihood(even, torch.arange(4))) == pytest.approx(math.log(4))
    assert float(expected_calibration_error(even, torch.arange(4))) == 0  # says 1/4, and 1/4 is right


@pytest.mark.parametrize("equal_mass", [False, True])
@pytest.mark.parametrize(("rows", "classes", "bins"), [(1, 2, 10), (7, 3, 15), (60, 3, 1), (151, 4, 10), (200, 10, 15)])
def test_reliability_equals_the_reference(rows, classes, bins, equal_mass):
    probabilities, labels = drawn(rows, classes, seed=rows)
    labels = labels.flip(0)  # no longer calibrated
    found = reliability(probabilities, labels, bins, equal_mass=equal_mass)
    counts, confidence, accuracy = slow_bins(probabilities.numpy(), labels.numpy(), bins, equal_mass)
    assert found.counts.tolist() == counts
    assert found.confidence.tolist() == pytest.approx(confidence, nan_ok=True)
    assert found.accuracy.tolist() == pytest.approx(accuracy, nan_ok=True)
    expected = slow_error(probabilities.numpy(), labels.numpy(), bins, equal_mass)
    assert float(expected_calibration_error(probabilities, labels, bins, equal_mass=equal_mass)) == pytest.approx(
        expected
    )


def test_all_measures_equal_the_references():
    probabilities, labels = drawn(300, 7, seed=3)
    p, y = probabilities.numpy(), labels.flip(0).numpy()
    expected = {
        "ece10": slow_error(p, y, 10, False),
        "ece15": slow_error(p, y, 15, False),
        "adaptive_ece15": slow_error(p, y, 15, True),
        "brier": np.mean([sum((p[i, c] - (c == y[i])) ** 2 for c in range(7)) for i in range(300)]),
        "nll": np.mean([-math.log(p[i, y[i]]) for i in range(300)]),
    }
    assert calibration(probabilities, labels.flip(0)) == pytest.approx(expected)


@pytest.mark.parametrize("equal_mass", [False, True])
def test_neither_order_nor_ties_nor_names_of_classes_matter(equal_mass):
    probabilities, labels = drawn(400, 5, seed=4)
    probabilities = torch.cat([probabilities[:100].repeat(3, 1), torch.eye(5).double().repeat(20, 1)])  # many ties
    shuffled, renamed = torch.randperm(400, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 0, 4, 1, 2])
    first = reliability(probabilities, labels, 15, equal_mass=equal_mass)
    again = reliability(probabilities[shuffled], labels[shuffled], 15, equal_mass=equal_mass)
    assert torch.equal(first.counts, again.counts)
    assert torch.allclose(first.accuracy, again.accuracy, equal_nan=True)
    other = reliability(probabilities[:, renamed.argsort()], renamed[labels], 15, equal_mass=equal_mass)
    assert torch.allclose(first.accuracy, other.accuracy, equal_nan=True)


def test_equal_mass_is_equal():
    for rows in (30, 100, 101, 149):
        counts = reliability(*drawn(rows, 4, seed=rows), 15, equal_mass=True).counts
        assert int(counts.max() - counts.min()) <= 1
        assert int(counts.sum()) == rows


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision(dtype):
    """Half precision rounds what goes in, not the sums: 5,000 equal rows add up to exactly their share."""
    rows = torch.tensor([[0.75, 0.25]], dtype=dtype).repeat(5000, 1)
    labels = (torch.arange(5000) % 4 == 0).long()  # 3 of 4 are right
    for equal_mass in (False, True):
        assert float(expected_calibration_error(rows, labels, equal_mass=equal_mass)) == 0
    many = torch.randn(64, 1000, generator=torch.Generator().manual_seed(0)).mul(4).softmax(dim=1).to(dtype)
    assert 0 < calibration(many, torch.zeros(64, dtype=torch.int64))["ece15"] <= 1


def test_what_is_calibrated_has_no_error_and_what_is_not_has():
    """A bin of n rows is off by about sqrt(p (1 - p) / n) <= 1 / (2 sqrt n); over b bins the mean of |gap| is then at
    most sqrt(b / N) / 2 (Cauchy-Schwarz), and three times that is never seen."""
    probabilities, labels = drawn(40_000, 4)
    noise = 3 * math.sqrt(15 / 40_000) / 2
    sharper = probabilities.square() / probabilities.square().sum(dim=1, keepdim=True)
    for equal_mass in (False, True):
        assert float(expected_calibration_error(probabilities, labels, 15, equal_mass=equal_mass)) < noise
        assert float(expected_calibration_error(sharper, labels, 15, equal_mass=equal_mass)) > 3 * noise
    assert brier_score(sharper, labels) > brier_score(probabilities, labels)
    assert negative_log_likelihood(sharper, labels) > negative_log_likelihood(probabilities, labels)


@pytest.mark.parametrize("equal_mass", [False, True])
@pytest.mark.parametrize("bins", [1, 3, 15])
def test_the_floor_is_the_mean_over_all_outcomes(bins, equal_mass):
    """Of ten rows, each right or wrong, all 1,024 ways with their probabilities."""
    probabilities, _ = drawn(10, 3, seed=11)
    p = probabilities.numpy()
    confidence, predicted = p.max(axis=1), p.argmax(axis=1)
    errors, chances = [], []
    for outcome in itertools.product([0, 1], repeat=10):
        labels = [a if right else (a + 1) % 3 for a, right in zip(predicted, outcome, strict=True)]
        errors.append(slow_error(p, labels, bins, equal_mass))
        chances.append(np.prod(np.where(outcome, confidence, 1 - confidence)))
    assert sum(chances) == pytest.approx(1)
    mean = np.dot(errors, chances)
    sd = math.sqrt(np.dot(np.square(errors), chances) - mean**2)
    found = calibration_floor(probabilities, bins, equal_mass=equal_mass, draws=4000)
    assert found.mean == pytest.approx(mean, abs=4 * sd / math.sqrt(4000))
    below, above = (sum(c for e, c in zip(errors, chances, strict=True) if side(e)) for side in (
        lambda e: e < found.low - 1e-12, lambda e: e > found.high + 1e-12))  # fmt: skip
    assert below <= 0.035
    assert above <= 0.035


def test_the_floor_s_interval_covers_calibrated_models():
    """Of 400 calibrated sets of labels 95 % lie within, +- four binomial sds; of labels too rarely right, none."""
    probabilities, _ = drawn(360, 10, seed=12)
    floor = calibration_floor(probabilities, 15)
    draw, p = np.random.default_rng(1), probabilities.numpy()
    errors = []
    for _ in range(400):
        labels = torch.tensor((p.cumsum(axis=1) < draw.random((360, 1))).sum(axis=1).clip(max=9))
        errors.append(float(expected_calibration_error(probabilities, labels, 15)))
    inside = np.mean([floor.low <= error <= floor.high for error in errors])
    assert abs(inside - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 400)
    assert np.mean(errors) == pytest.approx(floor.mean, abs=0.002)
    sharper = probabilities**3 / (probabilities**3).sum(dim=1, keepdim=True)
    assert float(expected_calibration_error(sharper, labels, 15)) > calibration_floor(sharper, 15).high


def test_the_floor_falls_with_the_root_of_the_rows():
    probabilities, _ = drawn(200, 10, seed=13)
    few, many = (calibration_floor(probabilities.repeat(times, 1), 15).mean for times in (4, 64))
    assert few / many == pytest.approx(4, rel=0.1)
    assert calibration_floor(torch.eye(4)[[0, 1, 1]]) == Floor(0.0, 0.0, 0.0)  # wholly sure, and so always right
    again, other = (calibration_floor(probabilities, seed=seed) for seed in (0, 1))
    assert calibration_floor(probabilities) == again != other


def test_temperature_by_hand():
    """Scores (2, 0), three of four right: sigmoid(2 / T) = 3/4, so T = 2 / log 3."""
    logits = torch.tensor([[2.0, 0.0]] * 4)
    assert fit_temperature(logits, torch.tensor([0, 0, 1, 0])) == pytest.approx(2 / math.log(3), rel=1e-9)


@pytest.mark.parametrize("scale", [1e-5, 0.05, 0.3, 1.0, 7.0, 40.0, 1e5])
def test_temperature_recovers_a_scale_and_is_the_least(scale):
    probabilities, labels = drawn(3000, 6, seed=5)
    logits = probabilities.log()
    own, scaled = fit_temperature(logits, labels), fit_temperature(logits * scale, labels)
    assert own == pytest.approx(1, abs=0.1)  # calibrated already
    assert scaled == pytest.approx(scale * own, rel=1e-8)
    least = slow_loss(logits * scale, labels.numpy(), scaled)
    for factor in (0.5, 0.98, 0.999, 1.001, 1.02, 2.0):
        assert slow_loss(logits * scale, labels.numpy(), scaled * factor) > least
    shifted = scale * (logits + torch.linspace(-50, 50, 3000)[:, None])
    assert fit_temperature(shifted, labels) == pytest.approx(scaled, rel=1e-8)


def test_temperature_mends_what_is_too_sure_and_changes_no_prediction():
    probabilities, labels = drawn(4000, 5, seed=6)
    logits = 3 * probabilities.log().float()
    temperature = fit_temperature(logits[:2000], labels[:2000])
    before, mended = logits[2000:].double(), logits[2000:].double() / temperature
    assert torch.equal(before.argsort(dim=1), mended.argsort(dim=1))
    then, now = (calibration(scores.softmax(dim=1), labels[2000:]) for scores in (before, mended))
    assert all(now[name] < then[name] for name in then)
    assert now["ece15"] < 0.05 < then["ece15"]


def test_temperature_where_validation_cannot_tell():
    logits = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 1.0]])
    low, high = TEMPERATURES
    assert fit_temperature(logits, torch.tensor([0, 1])) == low  # all right
    assert fit_temperature(1e5 * logits, torch.tensor([0, 1])) == low
    assert fit_temperature(logits, torch.tensor([2, 0])) == high  # all last
    assert fit_temperature(torch.full((3, 4), 2.5), torch.tensor([0, 1, 2])) == 1  # the same whatever T is
    runners_up = fit_temperature(torch.tensor([[3.0, 2.9, -9.0]]).repeat(4, 1), torch.ones(4, dtype=torch.int64))
    assert low < runners_up < high  # all wrong, and yet best somewhere
    tied = torch.tensor([[2.0, 2.0, 0.0]])
    assert fit_temperature(tied, torch.tensor([0])) == low


TWO = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
ERRORS = {
    "unlike length": (
        lambda: reliability(TWO, LABELS),
        r"probabilities \[N, C\] and labels \[N\].*\(2, 2\) and \(4,\)",
    ),
    "no rows": (lambda: brier_score(TWO[:0], LABELS[:0]), "N > 0"),
    "no bins": (lambda: reliability(TWO, LABELS[:2], 0), "bins must be at least 1, got 0"),
    "label": (lambda: negative_log_likelihood(TWO, torch.tensor([0, 2])), r"label 2 is outside \[0, 2\)"),
    "logits": (lambda: calibration(torch.tensor([[0.5, 0.5], [2.0, -1.0]]), LABELS[:2]), "row 1 .* lowest -1.*softmax"),
    "no sum": (lambda: brier_score(torch.tensor([[0.5, 0.5], [2.0, 3.0]]), LABELS[:2]), "row 1 .* sum 5.*softmax"),
    "nan": (lambda: reliability(TWO * math.nan, LABELS[:2]), "row 0 .* nan"),
    "temperature, unlike length": (lambda: fit_temperature(TWO, LABELS), r"logits \[N, C\]"),
    "temperature, not finite": (lambda: fit_temperature(TWO / 0, LABELS[:2]), "not finite"),
    "temperature, label": (lambda: fit_temperature(TWO, torch.tensor([0, -1])), "label -1"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_mistakes(case):
    call, match = ERRORS[case]
    with pytest.raises(ValueError, match=match):
        call()
