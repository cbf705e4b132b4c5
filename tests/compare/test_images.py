"""Two recipes by images: coverage over seeds and images, McNemar's test, shared errors, against slow references."""

import numpy as np
import pytest
from scipy import stats

from manyview.compare.images import mcnemar, over_images, two_way_interval
from manyview.compare.intervals import t_interval


def effects(drawn, seed, image, rest, seeds=5, images=200):
    return (
        1.5
        + drawn.normal(0, seed, (seeds, 1))
        + drawn.normal(0, image, (1, images))
        + drawn.normal(0, rest, (seeds, images))
    )


@pytest.mark.parametrize(("seed", "image", "alone"), [(0.1, 5.0, 0.62), (0.3, 3.0, 0.86), (1, 1, 0.95), (0, 0, 0.95)])
def test_the_interval_over_seeds_and_images_covers(seed, image, alone):
    """alone: how often that over seeds does."""
    drawn = np.random.default_rng(11)
    tables = [effects(drawn, seed, image, 4.0) for _ in range(600)]
    assert np.mean([low < 1.5 < high for low, high in map(two_way_interval, tables)]) == pytest.approx(0.95, abs=0.03)
    over_seeds = np.mean([low < 1.5 < high for low, high in (t_interval(each.mean(axis=1)) for each in tables)])
    assert over_seeds == pytest.approx(alone, abs=0.05)


def test_of_answers_of_real_kind_it_covers_too():
    """Two classifiers, equally good: images are harder or easier, each has its own strengths, each seed its luck."""
    drawn, held = np.random.default_rng(5), 0
    for _ in range(400):
        common, own = drawn.normal(0.5, 1.5, 300), drawn.normal(0, 0.7, (2, 300))
        luck = drawn.normal(0, 0.1, (2, 6, 1))
        right = drawn.random((2, 6, 300)) < 1 / (1 + np.exp(-(common + own[:, None] + luck)))
        low, high = two_way_interval(100 * (right[0].astype(float) - right[1]))
        held += low < 0 < high
    assert 0.925 <= held / 400 <= 0.985


def test_mcnemar_is_the_binomial_test():
    for one, other in ((3, 9), (0, 6), (5, 5), (40, 61)):
        expected = stats.binomtest(one, one + other, 0.5).pvalue
        assert mcnemar(one, other) == mcnemar(other, one) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(0, 0) == 1.0


def test_images_are_counted_as_by_hand():
    labels = np.array([0, 1, 2, 3])
    this = {0: np.array([0, 1, 9, 9]), 1: np.array([0, 1, 2, 9])}
    reference = {0: np.array([0, 8, 2, 9]), 1: np.array([8, 8, 8, 9])}
    found = over_images(this, reference, labels)
    assert (found.seeds, found.images) == (2, 4)
    assert found.mean == pytest.approx(100 * (0 + 3) / 8)
    assert (found.only_this, found.only_reference) == (2.0, 0.5)
    assert found.mcnemar == {0: 1.0, 1: pytest.approx(0.25)}
    assert found.unlike == 0
    assert found.overlap == pytest.approx(2 / 7)  # both wrong: one image a seed; either: three and four
    assert found.same_error == 1.0


def test_one_seed_has_no_interval_and_no_difference_an_empty_one():
    assert two_way_interval(np.zeros((1, 5))) is None
    assert two_way_interval(np.zeros((3, 5))) == (0.0, 0.0)
