"""Multinomial logistic regression: an objective on rows by the block, its minimum by Newton steps: see `linear`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from manyview.evaluate.rows import Lying, Rows, Store, blocks_of, rows_of, spans
from manyview.relations.reading import check_labels

STEPS, PRODUCTS = 100, 250
REFRESH = 30
"""Products that a Newton step may need before the preconditioner, worth about as many, is made anew."""
FORCING, ROUNDING = 0.1, 1e-12


@dataclass(frozen=True)
class Fit:
    """A fitted model.

    coefficients: float64 [classes, D]. bias: float64 [classes]. weight: the penalty w. loss: the objective's value.
    gap: a bound on how much of `loss` is more than its minimum, as a fraction; it holds for certain, and is often far
    above the truth where the penalty is weak.
    """

    coefficients: Tensor
    bias: Tensor
    weight: float
    loss: float
    gap: float

    def scores(self, features: Tensor | Rows) -> Tensor:
        """float64 [B, classes] of features [B, D]."""
        return torch.cat([*self.by_block(features)])

    def by_block(self, features: Tensor | Rows) -> Iterator[Tensor]:
        """The scores, of some rows at a time."""
        return (rows.double() @ self.coefficients.T + self.bias for rows in blocks_of(features))


def check_rows(features: Tensor | Rows, labels: Tensor, classes: int | None = None) -> None:
    """Raises ValueError unless features [N, D] are finite, with labels [N], below `classes` where they are told."""
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(
            f"expected features [N, D] and labels [N], got {tuple(features.shape)} and {tuple(labels.shape)}"
        )
    if not all(bool(rows.isfinite().all()) for rows in blocks_of(features)):
        raise ValueError("features hold values that are not finite")
    if classes is not None:
        check_labels(labels, classes)


def _centred(theta: Tensor) -> Tensor:
    """Without the part that all classes share, which changes no probability; the penalty makes it 0 at the optimum."""
    return theta - theta.mean(dim=0)


Solver = Callable[[Tensor, float], Tensor]


class Problem:
    """Rows, and the objective on them. theta: float64 [classes, D + 1], the bias last; theta's classes sum to zero."""

    def __init__(self, features: Tensor | Rows, labels: Tensor, classes: int, memory: int) -> None:
        check_rows(features, labels, classes)
        if len(labels.unique()) < 2:
            raise ValueError("labels are of fewer than two classes; there is nothing to tell apart")
        self.features, self.labels, self.classes, self.memory = rows_of(features), labels.long(), classes, memory
        fits = len(labels) * (features.shape[1] + 1) * torch.float32.itemsize <= memory
        self._held = [*map(self._wide, spans(len(labels)))] if fits else None
        self._solver: Solver | None = None

    def _wide(self, span: slice) -> Tensor:
        """Some rows, with a column of ones for the bias."""
        rows = self.features[span]
        return torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)

    def blocks(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Where a block lies, its rows, and their labels."""
        for number, span in enumerate(spans(len(self.labels))):
            yield span, self._wide(span) if self._held is None else self._held[number], self.labels[span]

    def value(self, theta: Tensor, weight: float) -> float:
        """The objective."""
        losses = [
            torch.nn.functional.cross_entropy(x.double() @ theta.T, y, reduction="sum") for _, x, y in self.blocks()
        ]
        return float(torch.stack(losses).sum() + weight * theta.square().sum())

    def look(self, theta: Tensor, weight: float) -> tuple[float, Tensor, Lying]:
        """The objective, its gradient, and the probabilities, float32 [N, classes]."""
        loss, gradient = theta.new_zeros(()), 2 * weight * theta
        chances = Store(len(self.labels), self.memory)
        for _, x, y in self.blocks():
            wide = x.double()
            logs = (wide @ theta.T).log_softmax(dim=1)
            loss = loss - logs.gather(1, y[:, None]).sum()
            chance = logs.exp()
            chances.add(chance.float())
            gradient += chance.scatter_add(1, y[:, None], -torch.ones_like(logs[:, :1])).T @ wide
        return float(loss + weight * theta.square().sum()), _centred(gradient), chances.lying()

    def curvature(self, chances: Lying, weight: float, direction: Tensor) -> Tensor:
        """The Hessian times a direction, in float32 by the block."""
        bent, narrow = 2 * weight * direction, direction.float()
        whole = torch.zeros_like(direction)
        for span, x, _ in self.blocks():
            chance = chances[span].to(x.device)
            change = x @ narrow.T
            # less what all classes share, the change of the likeliest; now chances that round to 1 do no harm
            change -= change.gather(1, chance.argmax(dim=1, keepdim=True))
            change = chance * (change - (chance * change).sum(dim=1, keepdim=True))
            whole += (change.T @ x).double()
        return _centred(whole) + bent

    def solver(self, chances: Lying) -> Solver:
        """(vector, w) -> about the inverse Hessian times it: rows' covariance of scores and features taken apart."""
        width = self.features.shape[1] + 1
        by_feature = torch.zeros(width, width, dtype=torch.float64, device=self.features.device)
        by_class = by_feature.new_zeros(self.classes, self.classes)
        total = by_feature.new_zeros(())
        for span, x, _ in self.blocks():
            chance = chances[span].to(x.device)
            others = chance.scatter(1, chance.argmax(dim=1, keepdim=True), 0.0)
            doubt = others.sum(dim=1)  # 1 - the largest, without cancellation
            spread = doubt * (1 - doubt) + doubt - others.square().sum(dim=1)  # 1 - sum of squares
            by_feature += ((x * spread[:, None]).T @ x).double()
            by_class -= (chance.T @ chance).double()
            total += spread.double().sum()
        by_class.fill_diagonal_(0)
        by_class -= by_class.sum(dim=1).diag()
        by_class /= float(total) or 1.0
        (f, f_basis), (c, c_basis) = torch.linalg.eigh(by_feature), torch.linalg.eigh(by_class)
        product = c.clamp(min=0)[:, None] * f.clamp(min=0)

        def solve(vector: Tensor, weight: float) -> Tensor:
            turned = (c_basis.T @ vector @ f_basis) / (product + 2 * weight)
            return c_basis @ turned @ f_basis.T

        return solve

    def newton(self, gradient: Tensor, chances: Lying, weight: float) -> Tensor:
        """The direction -H^-1 gradient by conjugate gradients, to a tenth of the preconditioned gradient's length."""
        if self._solver is None:
            self._solver = self.solver(chances)
        direction, residual = torch.zeros_like(gradient), -gradient
        ahead = self._solver(residual, weight)
        step, size = ahead, float((residual * ahead).sum())
        enough, number = FORCING**2 * size, 0
        while size > enough and number < PRODUCTS:
            number += 1
            bent = self.curvature(chances, weight, step)
            along = float((step * bent).sum())
            if along <= 0:  # rounding
                break
            direction = direction + size / along * step
            residual = residual - size / along * bent
            ahead = self._solver(residual, weight)
            last, size = size, float((residual * ahead).sum())
            step = ahead + size / last * step
        if number > REFRESH:
            self._solver = None
        return _centred(direction)

    def solve(self, weight: float, theta: Tensor, tolerance: float) -> tuple[Fit, Tensor]:
        """The fit, and its theta."""
        theta = _centred(theta)
        loss, gradient, chances = self.look(theta, weight)
        nothing = not bool(theta.any())  # 0 tells no class from another, however little there is to gain
        for _ in range(STEPS):
            if not nothing and float(gradient.square().sum()) / (4 * weight) <= tolerance * loss:
                break
            direction = self.newton(gradient, chances, weight)
            slope, length = float((gradient * direction).sum()), 1.0
            while True:
                moved = theta + length * direction
                found = self.look(moved, weight)
                if found[0] <= loss + 1e-4 * length * slope or length < 1e-6:
                    break
                length /= 2
            if found[0] >= loss + nothing * ROUNDING * loss:  # as low as rounding lets it go
                break
            theta, (loss, gradient, chances), nothing = moved, found, False
            if -slope / 2 <= tolerance * loss:
                break
        gap = float(gradient.square().sum()) / (4 * weight * loss)
        return Fit(theta[:, :-1], theta[:, -1], weight, loss, gap), theta
