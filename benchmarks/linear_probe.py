"""The linear probe's 45 penalties beside 45 cold L-BFGS solves with AugSelf's settings, on a run's features.

    OMP_NUM_THREADS=1 python benchmarks/linear_probe.py RUN [--every N] [--continued] [--metric M] [KEY=VALUE]…

RUN is a finished run with train, val and test; KEY=VALUE says where its data are, as in `data.root=DIR`. Both sides
fit train, choose the penalty on val, then fit train and val together, and are judged on test. They take turns in one
process, a penalty each, and processor time counts, so that other programs disturb less.

The other side is what the official script does (transfer_linear_eval.py of hankook/AugSelf): `torch.optim.LBFGS` in
float32 with lr 1, at most 5,000 iterations, strong Wolfe line search, tolerance_grad 1e-10, tolerance_change 0 and
torch's history of 100, from torch's initialisation of a linear layer. That script does not reset its weights between
penalties, which go from weak to strong; `--continued` does as it does, else each solve begins anew. Float32 ends most
solves long before 5,000 iterations.

Prints a Markdown table, a line a penalty: seconds of both and their ratio, iterations of L-BFGS, accuracy of both on
val, and by how much the objective of each, in float64, exceeds the minimum (ours solved again to 1e-12).
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyview.evaluate.accuracy import accuracy
from manyview.evaluate.features import Features
from manyview.evaluate.linear import METRICS, WEIGHTS, fit_linear, fit_path, linear_probe
from manyview.evaluate.model import StepModel
from manyview.training.run import Run

OFFICIAL = {"lr": 1.0, "max_iter": 5000, "tolerance_grad": 1e-10, "tolerance_change": 0.0}
Rows = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Solve:
    """One L-BFGS solve: the layer, the processor time in seconds, iterations."""

    layer: nn.Linear
    seconds: float
    iterations: int


def lbfgs(rows: Rows, classes: int, weight: float, start: nn.Linear | None) -> Solve:
    """Sum of the rows' cross-entropies plus weight times all parameters' squares, by torch's L-BFGS."""
    began = time.process_time()
    features, labels = rows
    torch.manual_seed(0)
    layer = nn.Linear(features.shape[1], classes)
    if start is not None:
        layer.load_state_dict(start.state_dict())
    optimizer = torch.optim.LBFGS(layer.parameters(), line_search_fn="strong_wolfe", **OFFICIAL)

    def closure() -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(layer(features), labels, reduction="sum")
        loss = loss + weight * sum(parameter.square().sum() for parameter in layer.parameters())
        loss.backward()
        return loss  # type: ignore[return-value]

    optimizer.step(closure)
    iterations = optimizer.state[next(layer.parameters())]["n_iter"]
    return Solve(layer.requires_grad_(False), time.process_time() - began, iterations)


def objective(coefficients: Tensor, bias: Tensor, rows: Rows, weight: float) -> float:
    """In float64."""
    scores = rows[0].double() @ coefficients.double().T + bias.double()
    penalty = coefficients.double().square().sum() + bias.double().square().sum()
    return float(F.cross_entropy(scores, rows[1], reduction="sum") + weight * penalty)


def main() -> None:
    """Runs both and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--every", type=int, default=1, help="only each so-many-th of the 45 penalties")
    parser.add_argument("--continued", action="store_true", help="each L-BFGS solve from the one before")
    parser.add_argument("--metric", choices=METRICS, default="top1")
    options = parser.parse_intermixed_args()

    run = Run(options.run)
    recipe = run.recipe(*options.overrides)
    features = Features(StepModel(run.step(recipe), run.classes()), run.splits(recipe))
    train, val, test = ((out.features, out.labels) for out in map(features.of, ("train", "val", "test")))
    classes, metric = len(run.classes()), options.metric
    weights = sorted(WEIGHTS)[:: options.every]
    torch.set_num_threads(1)  # processor time would count threads that wait
    print(f"{' x '.join(map(str, train[0].shape))} features, {len(val[0])} rows held out, {classes} classes\n")

    theirs: dict[float, Solve] = {}
    seconds: list[float] = []
    mark = time.process_time()

    def turn(done: int, total: int) -> None:
        """After each penalty of ours, one of theirs."""
        nonlocal mark
        seconds.append(time.process_time() - mark)
        weight = weights[done - 1]
        start = theirs[weights[done - 2]].layer if options.continued and done > 1 else None
        theirs[weight] = lbfgs(train, classes, weight, start)
        mark = time.process_time()

    probe = linear_probe(*train, *val, classes, weights=weights, metric=metric, progress=turn)
    refit = time.process_time() - mark
    ours = dict(zip(sorted(weights, reverse=True), seconds, strict=True))

    def right(layer: nn.Linear, rows: Rows) -> float:
        return accuracy(layer(rows[0]), rows[1])[metric]

    chosen_theirs = {weight: right(solve.layer, val) for weight, solve in theirs.items()}
    best = max(weights, key=lambda weight: chosen_theirs[weight])
    both = (torch.cat([train[0], val[0]]), torch.cat([train[1], val[1]]))
    last = lbfgs(both, classes, best, theirs[best].layer)

    print(
        "| penalty | ours, s | L-BFGS, s | ratio | iterations | ours, val | L-BFGS, val | ours, above | L-BFGS, above |"
    )
    print("| --- " * 9 + "|")
    for fit in fit_path(*train, classes, weights):
        weight, solve = fit.weight, theirs[fit.weight]
        least = fit_linear(*train, classes, weight, start=fit, tolerance=1e-12).loss
        above = [
            objective(a, b, train, weight) / least - 1
            for a, b in ((fit.coefficients, fit.bias), (solve.layer.weight, solve.layer.bias))
        ]
        print(
            f"| {weight:.1e} | {ours[weight]:.2f} | {solve.seconds:.2f} | {solve.seconds / ours[weight]:.1f} | "
            f"{solve.iterations} | {probe.accuracies[weight]:.2f} | {chosen_theirs[weight]:.2f} | {above[0]:.1e} | "
            f"{above[1]:.1e} |"
        )
    totals = sum(seconds), sum(solve.seconds for solve in theirs.values())
    print(f"\npath: {totals[0]:.1f} s and {totals[1]:.1f} s, {totals[1] / totals[0]:.1f} times")
    print(f"median of the ratios: {statistics.median(theirs[w].seconds / ours[w] for w in weights):.1f}")
    print(f"chosen fit again on all rows: {refit:.1f} s and {last.seconds:.1f} s")
    print(
        f"chosen: {probe.weight:.1e} with {probe.accuracies[probe.weight]:.2f} % on val, and {best:.1e} with "
        f"{chosen_theirs[best]:.2f} %"
    )
    tested = accuracy(probe.fit.scores(test[0]), test[1])[metric]
    print(f"test: {tested:.2f} % and {right(last.layer, test):.2f} %")


if __name__ == "__main__":
    main()
