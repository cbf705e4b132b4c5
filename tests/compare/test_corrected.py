"""Many recipes: p-values and Holm's adjustment against slow references, and how often one is ahead by chance."""

import math

import numpy as np
import pytest
from scipy import stats

from manyview.compare.corrected import detectable, holm, t_test


def slow_holm(values: list[float]) -> list[float]:
    """By the definition: the least level at which Holm's procedure rejects a hypothesis, searched on all candidates."""

    def rejected(level):
        found = set()
        for place, index in enumerate(np.argsort(values, kind="stable")):
            if values[index] > level / (len(values) - place):
                break
            found.add(int(index))
        return found

    levels = sorted({min(1.0, value * (len(values) - place)) for value in values for place in range(len(values))} | {1})
    return [next((level for level in levels if at in rejected(level * (1 + 1e-12))), 1.0) for at in range(len(values))]


def test_holm_equals_its_definition():
    drawn = np.random.default_rng(3)
    for count in (1, 2, 5, 8):
        for _ in range(20):
            values = (drawn.random(count) ** 3).tolist()
            adjusted = holm({f"{place}": value for place, value in enumerate(values)})
            assert list(adjusted.values()) == pytest.approx(slow_holm(values), rel=1e-9)


def test_what_could_not_be_tested_counts_and_stays_without():
    assert holm({"a": 0.01, "b": None, "c": 0.04}) == pytest.approx({"a": 0.03, "b": None, "c": 0.08})
    assert holm({"a": 0.01}, family=8) == {"a": 0.08}
    with pytest.raises(ValueError, match="family is at least 2"):
        holm({"a": 0.01, "b": 0.1}, family=1)


def test_p_is_that_of_the_t_test():
    values = np.array([0.3, -0.1, 0.8, 0.4, 0.2])
    assert t_test(values) == pytest.approx(float(stats.ttest_1samp(values, 0.0).pvalue), rel=1e-12)
    assert t_test(values[:1]) is None
    assert t_test(np.full(3, 0.4)) is None


def test_one_of_eight_alike_is_called_unlike_in_at_most_a_twentieth_of_comparisons():
    """Nothing differs, all share a reference, 5 seeds, 4,000 comparisons: without correction it is one in five."""
    drawn = np.random.default_rng(7).normal(size=(4000, 9, 5))
    differences = drawn[:, 1:] - drawn[:, :1]
    t = differences.mean(axis=2) / (differences.std(axis=2, ddof=1) / math.sqrt(5))
    p = 2 * stats.t.sf(np.abs(t), 4)
    told = np.mean([min(holm({f"{at}": value for at, value in enumerate(row)}).values()) < 0.05 for row in p])
    assert 0.02 < told < 0.055
    assert np.mean(p.min(axis=1) < 0.05) > 0.18


@pytest.mark.parametrize("n", [5, 12])
def test_what_is_detectable_is_found_in_four_of_five(n):
    shift = detectable(2.0, n)
    drawn = np.random.default_rng(n).normal(shift, 2.0, (8000, n))
    assert np.mean(stats.ttest_1samp(drawn, 0.0, axis=1).pvalue < 0.05) == pytest.approx(0.8, abs=0.02)
    assert detectable(2.0, 1) is None


@pytest.mark.parametrize("n", [2, 3])
def test_what_few_differences_detect_at_a_strict_level_is_much(n):
    level = 0.05 / 23
    shift = detectable(1.0, n, level)
    drawn = np.random.default_rng(n).normal(shift, 1.0, (20000, n))
    assert np.mean(stats.ttest_1samp(drawn, 0.0, axis=1).pvalue < level) == pytest.approx(0.8, abs=0.02)
    assert shift > (200 if n == 2 else 10)
    for strict in (1e-5, 1e-6, 1e-9):
        found = detectable(1.0, n, strict)
        assert found is None if n == 2 else found > shift
