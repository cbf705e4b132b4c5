"""Nearest neighbours: the same as brute force in NumPy, and memory that more queries do not increase."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from manyview.evaluate.knn import QUERIES_AT_ONCE, knn_predict


def brute_force(queries, bank, labels, classes, k, temperature):
    """All cosines in float64, sorted; votes of exp(cosine / T)."""
    queries, bank = (each.double().numpy() for each in (queries, bank))
    cosines = queries @ bank.T / np.linalg.norm(queries, axis=1)[:, None] / np.linalg.norm(bank, axis=1)
    nearest = np.argsort(-cosines, axis=1)[:, :k]
    votes = np.zeros((len(queries), classes))
    for row, columns in enumerate(nearest):
        np.add.at(votes[row], labels[columns], np.exp(cosines[row, columns] / temperature))
    return votes


def clouds(rows, dim, classes, seed):
    """Features of unlike lengths around a direction a class."""
    drawn = np.random.default_rng(seed)
    labels = drawn.integers(classes, size=rows)
    means = np.random.default_rng(1).normal(size=(classes, dim))
    features = (means[labels] + 2.5 * drawn.normal(size=(rows, dim))) * drawn.uniform(0.1, 10, size=(rows, 1))
    return torch.tensor(features, dtype=torch.float32), labels


@pytest.mark.parametrize("count", [1, QUERIES_AT_ONCE - 1, QUERIES_AT_ONCE, 2 * QUERIES_AT_ONCE + 1])
@pytest.mark.parametrize(("k", "temperature"), [(1, 0.1), (7, 0.1), (200, 0.1), (200, 0.02), (600, 1.0)])
def test_the_same_as_brute_force(count, k, temperature):
    bank, labels = clouds(600, 24, 10, seed=2)
    queries, truth = clouds(count, 24, 10, seed=3)
    votes = brute_force(queries, bank, labels, 10, k, temperature)
    predicted = knn_predict(queries, bank, torch.tensor(labels), 10, k, temperature).numpy()
    assert predicted.dtype == np.int64
    highest = np.sort(votes, axis=1)
    sure = highest[:, -1] > highest[:, -2] * (1 + 1e-4)  # others may be decided by rounding
    assert sure.mean() > 0.99 or count == 1
    np.testing.assert_array_equal(predicted[sure], votes.argmax(axis=1)[sure])
    if count > 1000:
        assert 0.3 < (predicted == truth).mean() < 1


PEAK = """
import resource, sys, torch
from manyview.evaluate.knn import knn_predict

torch.set_num_threads(1)
drawn = torch.Generator().manual_seed(0)
bank, queries = torch.randn(20_000, 8, generator=drawn), torch.randn(int(sys.argv[1]), 8, generator=drawn)
knn_predict(queries, bank, torch.arange(20_000) % 10, 10, k=20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_queries():
    """Cosines of 1,024 queries with this bank take 82 MB, of 8,192 all at once 655 MB."""
    peaks = []
    for batches in (1, 8):
        command = [sys.executable, "-c", PEAK, str(batches * QUERIES_AT_ONCE)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
        peaks.append(int(done.stdout) * 1024 if sys.platform != "darwin" else int(done.stdout))
    # freed memory may be taken anew before it is reused: room for one more batch, not for seven
    assert peaks[1] - peaks[0] < 1.5 * 4 * 20_000 * QUERIES_AT_ONCE
