"""Nearest neighbours: the same as brute force in NumPy, and memory that more queries do not increase."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from manyview.evaluate import knn
from manyview.evaluate.knn import QUERIES_AT_ONCE, knn_predict, neighbours
from manyview.evaluate.rows import Rows, Store


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


def by_the_rules(queries, bank, labels, classes, k, temperature):
    """Row by row, in float64: who is nearer, who comes first, whose votes are most. (class, whether it was a tie)."""
    found = []
    alive = [at for at, row in enumerate(bank) if np.isfinite(row).all() and np.abs(row).max() > 0]
    for query in queries:
        if not np.isfinite(query).all() or np.abs(query).max() == 0 or not alive:
            found.append((-1, False))
            continue
        query = query / np.abs(query).max()
        cosines = {}
        for at in alive:
            row = bank[at] / np.abs(bank[at]).max()
            cosines[at] = round(float(query @ row / np.linalg.norm(query) / np.linalg.norm(row)), 6)
        order = sorted(alive, key=lambda at: (-cosines[at], at))[:k]
        last = cosines[order[-1]]
        votes = [sum(np.exp(cosines[at] / temperature) for at in order if labels[at] == c) for c in range(classes)]
        best = [c for c in range(classes) if votes[c] >= max(votes) * (1 - 1e-9)]
        equal = [at for at in alive if cosines[at] == last]
        crowd = sum(cosines[at] >= last for at in alive) > k and len({labels[at] for at in equal}) > 1
        found.append((best[0], len(best) > 1 or crowd))
    return found


@pytest.mark.parametrize("k", [1, 2, 3, 5, 8, 40])
def test_ties_are_decided_by_the_rules(k):
    """Few directions, each many times and of any class, so that most places are contested."""
    drawn = np.random.default_rng(4)
    bank = drawn.integers(-1, 2, size=(40, 3)) * drawn.uniform(0.5, 2, size=(40, 1))
    labels = drawn.integers(4, size=40)
    queries = drawn.integers(-1, 2, size=(30, 3)).astype(np.float64)
    expected = by_the_rules(queries, bank, labels, 4, k, 0.1)
    found = neighbours(
        *(torch.tensor(each, dtype=torch.float32) for each in (queries, bank)), torch.tensor(labels), 4, k
    )
    assert found.classes.tolist() == [answer for answer, _ in expected]
    assert found.tied.tolist() == [tie for _, tie in expected]
    assert found.tied.any() or k == 40
    assert found.dead.tolist() == (queries == 0).all(axis=1).tolist()
    assert found.lost == (bank == 0).all(axis=1).sum() > 0


def test_where_all_features_are_one_the_first_rows_are_the_nearest():
    bank, labels = torch.ones(1000, 16), torch.arange(1000) // 100
    found = neighbours(torch.ones(200, 16), bank, labels, 10, k=50)
    assert (found.classes == 0).all()
    assert found.tied.all()
    again = neighbours(torch.ones(200, 16), bank, labels.flip(0), 10, k=50)
    assert (again.classes == 9).all()


def test_no_query_and_no_row_without_a_direction_has_a_say():
    bank, labels = clouds(60, 8, 3, seed=5)
    queries, _ = clouds(20, 8, 3, seed=6)
    labels = torch.tensor(labels)
    whole = neighbours(queries, bank, labels, 3, k=7)
    spoilt = torch.cat([torch.zeros(2, 8), bank, torch.full((1, 8), torch.nan), torch.full((1, 8), -torch.inf)])
    spoilt[-1, 1:] = 1
    names = torch.cat([torch.tensor([2, 2]), labels, torch.tensor([1, 1])])
    asked = torch.cat([queries, torch.zeros(1, 8), torch.full((1, 8), torch.nan)])
    found = neighbours(asked, spoilt, names, 3, k=7)
    assert torch.equal(found.classes, torch.cat([whole.classes, torch.tensor([-1, -1])]))
    assert found.dead.tolist() == [False] * 20 + [True, True]
    assert not found.tied[-2:].any()
    assert (found.lost, whole.lost) == (4, 0)
    for bad in (torch.zeros(5, 8), torch.full((5, 8), torch.nan)):
        none = neighbours(queries, bad, torch.arange(5) % 3, 3, k=5)
        assert none.classes.tolist() == [-1] * 20
        assert none.dead.all()
    assert len(knn_predict(torch.zeros(0, 8), bank, labels, 3, k=7)) == 0


@pytest.mark.parametrize("scale", [1e-30, 1e-15, 1e15, 1e30])
def test_features_of_any_size_have_a_direction(scale):
    """Whose squares are 0 or infinite in float32."""
    (bank, labels), (queries, _) = clouds(60, 8, 3, seed=5), clouds(20, 8, 3, seed=6)
    expected = knn_predict(queries, bank, torch.tensor(labels), 3, k=7)
    assert torch.equal(knn_predict(queries * scale, bank * scale, torch.tensor(labels), 3, k=7), expected)


PEAK = """
import resource, sys, torch
from manyview.evaluate.knn import knn_predict

torch.set_num_threads(1)
drawn = torch.Generator().manual_seed(0)
bank = torch.randn(20_000, 8, generator=drawn)
for count in sys.argv[1:]:
    knn_predict(torch.randn(int(count), 8, generator=drawn), bank, torch.arange(20_000) % 10, 10, k=20)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow(reason="an interpreter of its own, whose memory is measured")
def test_memory_does_not_grow_with_the_queries():
    """Cosines of 1,024 queries with this bank take 82 MB, of 8,192 all at once 655 MB."""
    command = [sys.executable, "-c", PEAK, *(str(batches * QUERIES_AT_ONCE) for batches in (1, 8))]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    peaks = [int(line) * (1024 if sys.platform != "darwin" else 1) for line in done.stdout.split()]
    # freed memory may be taken anew before it is reused: room for one more batch, not for seven
    assert peaks[1] - peaks[0] < 1.5 * 4 * 20_000 * QUERIES_AT_ONCE


@pytest.mark.parametrize("spare", [1, 2, 64])
@pytest.mark.parametrize("k", [1, 3, 8, 30])
def test_blocks_of_any_size_give_the_same_answers(k, spare, monkeypatch, tmp_path):
    """Contested places too, with rows without a direction among them, from memory and from a file."""
    drawn = np.random.default_rng(4)
    bank = torch.tensor(drawn.integers(-1, 2, size=(230, 3)), dtype=torch.float32)
    queries = torch.tensor(drawn.integers(-1, 2, size=(90, 3)), dtype=torch.float32)
    bank[100:140] = bank[0]  # more as near as any spare place holds
    labels = torch.tensor(drawn.integers(4, size=230))
    whole = neighbours(queries, bank, labels, 4, k)
    store = Store(230, memory=0, halves=True)
    for part in bank.split(50):
        store.add(part)
    kept = Rows(store.lying())
    assert kept.parts[0].dtype == torch.float16
    monkeypatch.setattr(knn, "SPARE", spare)
    for size, group in ((16, 1), (7, 3), (230, 2), (1000, 1)):
        monkeypatch.setattr(knn, "BANK_AT_ONCE", size)
        monkeypatch.setattr(knn, "QUERIES_AT_ONCE", 20)
        monkeypatch.setattr(knn, "GROUP", group)
        for each in (bank, kept):
            found = neighbours(queries, each, labels, 4, k)
            for name in ("classes", "tied", "dead"):
                assert torch.equal(getattr(found, name), getattr(whole, name)), (size, name)
            assert found.lost == whole.lost > 0
