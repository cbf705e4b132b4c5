"""Memory and time of kNN and both linear probes on features that do not fit: by default 200,000 rows of 2,048 numbers.

    OMP_NUM_THREADS=1 python benchmarks/many_features.py [--rows N] [--dim D] [--classes C] [--queries Q] [--budget MB]
        [--penalties P] [--rates R] [--epochs E] [--only kNN SGD Newton] [--whole]

Features are drawn around a direction a class and kept as float16 in a file without a name in TMPDIR (2 bytes a number;
819 MB by default), as an evaluation keeps them. Each measure then runs by itself, and the most that the process had
resident until then (getrusage) is told, less what it had when all was imported. budget: what rows and probabilities may
take in memory, else they are read by the block. penalties: from 10,000 downwards by tens. whole: all of it once more
with the features in memory as float32, and whether the answers are the same.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from manyview.evaluate.knn import knn_predict
from manyview.evaluate.linear import fit_path
from manyview.evaluate.linear_sgd import sgd_probe
from manyview.evaluate.rows import ROWS_AT_ONCE, Rows, Store, spans

MEASURES = ("kNN", "SGD", "Newton")


def peak() -> float:
    """The most memory that was resident so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def drawn(count: int, dim: int, means: torch.Tensor, seed: int, memory: int) -> tuple[Rows, torch.Tensor]:
    """Rows around the means of their classes, float16, and labels."""
    labels, store = torch.arange(count) % len(means), Store(count, memory)
    noise = 4 * torch.randn(ROWS_AT_ONCE, dim, generator=torch.Generator().manual_seed(seed))
    for number, span in enumerate(spans(count)):  # each block's noise is the first's, turned by some columns
        own = noise[: span.stop - span.start].roll(number, dims=1)
        store.add((means[labels[span]] + own).relu().half())
    return Rows(store.lying()), labels


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, usual in {
        "rows": 200_000,
        "dim": 2048,
        "classes": 10,
        "queries": 1000,
        "budget": 512,
        "penalties": 1,
        "rates": 2,
        "epochs": 1,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=MEASURES)
    parser.add_argument("--whole", action="store_true")
    options = parser.parse_args()
    classes, memory = options.classes, options.budget * 10**6

    knn_predict(torch.eye(4), torch.eye(4), torch.arange(4), 4, k=1)  # so that all is imported
    imported = peak()

    def timed(what: str, measure: Callable[[], Any]) -> Any:
        began, processor = time.perf_counter(), time.process_time()
        found = measure()
        took, processor = time.perf_counter() - began, time.process_time() - processor
        print(
            f"{what}: {took:.0f} s, {processor:.0f} s of a processor, peak so far {peak() - imported:.0f} MB",
            flush=True,
        )
        return found

    means = torch.randn(classes, options.dim, generator=torch.Generator().manual_seed(0))
    bank, labels = timed("features", lambda: drawn(options.rows, options.dim, means, 1, 0))
    queries, truth = drawn(options.queries, options.dim, means, 2, memory)
    weights = [10.0 ** (4 - power) for power in range(options.penalties)]
    rates = [0.001 * 3.0**power for power in range(options.rates)]

    def right(answers: torch.Tensor) -> str:
        return f"{100 * float((answers == truth).double().mean()):.1f} % right"

    def all_of(bank: Rows | torch.Tensor, memory: int) -> list[torch.Tensor]:
        found: list[torch.Tensor] = []
        if "kNN" in options.only:
            found.append(timed("kNN", lambda: knn_predict(queries, bank, labels, classes, k=200)))
            print(f"  {right(found[-1])}")
        if "SGD" in options.only:
            told = {"lrs": rates, "epochs": options.epochs, "milestones": ()}
            probe = timed("SGD", lambda: sgd_probe(bank, labels, queries, truth, classes, **told))
            print(f"  {right(probe.scores(queries).argmax(dim=1))}")
            found.append(probe.coefficients)
        if "Newton" in options.only:
            fits = timed("Newton", lambda: [*fit_path(bank, labels, classes, weights, memory=memory)])
            print(f"  {right(fits[-1].scores(queries).argmax(dim=1))}")
            found += [fit.coefficients for fit in fits]
        return found

    size = options.rows * options.dim * 2e-6
    print(f"{options.rows:,} x {options.dim:,} of {classes:,} classes, {size:.0f} MB in a file")
    found = all_of(bank, memory)
    if options.whole:
        same = map(torch.equal, found, all_of(bank[:], 2**62))
        print("the same bits in memory" if all(same) else "NOT the same in memory")


if __name__ == "__main__":
    main()
