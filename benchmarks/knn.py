"""Time and memory of weighted kNN at CIFAR's size: 10,000 queries among 50,000 rows of 512 numbers, k = 200.

    OMP_NUM_THREADS=1 python benchmarks/knn.py [--bank N] [--queries N] [--dim D] [--k K]

Features are random around a direction a class, float32. Memory is the most that the process had resident (getrusage),
less what it had when everything was imported: so with the bank (102 MB) and the queries (20 MB). A second figure leaves
those two out. Then 200 of the queries are compared with brute force in NumPy and float64.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time

import numpy as np
import torch

from manyview.evaluate.knn import knn_predict

CLASSES, TEMPERATURE, COMPARED = 10, 0.1, 200


def peak() -> float:
    """The most memory that was resident so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def clouds(rows: int, dim: int, drawn: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Features [rows, dim] around a direction a class, made in place, and labels."""
    labels = torch.arange(rows) % CLASSES
    features = torch.randn(rows, dim, generator=drawn).mul_(8)
    for label in range(CLASSES):
        features[label::CLASSES] += torch.randn(dim, generator=torch.Generator().manual_seed(label))
    return features, labels


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bank", type=int, default=50_000)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--k", type=int, default=200)
    options = parser.parse_args()

    drawn = torch.Generator().manual_seed(0)
    knn_predict(torch.eye(4), torch.eye(4), torch.arange(4), CLASSES, k=1)  # so that all is imported
    imported = peak()
    bank, labels = clouds(options.bank, options.dim, drawn)
    queries, truth = clouds(options.queries, options.dim, drawn)
    made = peak() - imported
    inputs = (bank.nbytes + queries.nbytes + labels.nbytes) / 1e6
    began, processor = time.perf_counter(), time.process_time()
    predicted = knn_predict(queries, bank, labels, CLASSES, options.k, TEMPERATURE)
    seconds, processor = time.perf_counter() - began, time.process_time() - processor
    most = peak() - imported
    print(
        f"{seconds:.1f} s, {processor:.1f} s of a processor; {100 * float((predicted == truth).double().mean()):.2f} %"
    )
    print(
        f"peak {most:.0f} MB with the inputs, {most - inputs:.0f} MB above their {inputs:.0f} MB "
        f"({made:.0f} MB while they were made)"
    )

    q, b = queries[:COMPARED].double().numpy(), bank.double().numpy()
    cosines = q @ b.T / np.linalg.norm(q, axis=1)[:, None] / np.linalg.norm(b, axis=1)
    votes = np.zeros((len(q), CLASSES))
    for row, columns in enumerate(np.argsort(-cosines, axis=1)[:, : options.k]):
        np.add.at(votes[row], labels.numpy()[columns], np.exp(cosines[row, columns] / TEMPERATURE))
    same = int((votes.argmax(axis=1) == predicted[:COMPARED].numpy()).sum())
    print(f"of {len(q)} queries {same} as by brute force")


if __name__ == "__main__":
    main()
