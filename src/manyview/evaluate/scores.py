"""Class scores of any model: its own classifier's, or those of a linear probe on its features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from manyview.errors import DataError, unknown
from manyview.evaluate.linear import probe_of

if TYPE_CHECKING:
    from manyview.evaluate.features import Features

WAYS = ("auto", "classifier", "linear")


@dataclass(frozen=True)
class Scores:
    """How to get scores. of: split -> [N, classes] of its labelled images. read: pixels -> scores, differentiable.

    saw_val: whether validation images were among those fitted to, so that nothing may be chosen by them any more.
    note: whose scores they are.
    """

    of: Callable[[str], Tensor]
    read: Callable[[Tensor], Tensor]
    saw_val: bool
    note: str


def check_by(by: object) -> None:
    """Raises ValueError for what is none of WAYS."""
    if by not in WAYS:
        raise ValueError(unknown("by", str(by), WAYS))


def check_classifier(features: Features) -> None:
    """Raises DataError for a model that does not classify these data."""
    if not features.classifies:
        raise DataError(f"{features.model.name} has no classifier of these classes; ask for by='linear'")


def scores_of(features: Features, split: str, by: str = "auto") -> Scores:
    """Scores by the model's `classifier`, by a `linear` probe, or `auto`: the classifier where it is of these classes.

    split: the one to be judged, which the probe must not have seen. Raises DataError where nothing classifies.
    """
    model = features.model
    if by == "auto":
        by = "classifier" if features.classifies else "linear"
    if by == "classifier":
        check_classifier(features)
        return Scores(
            lambda name: _logits(features, name),
            lambda pixels: model.read(pixels)["logits"],
            False,
            "scores of the model's own classifier",
        )
    probe = probe_of(features, split)
    fit = probe.fit
    coefficients, bias = fit.coefficients.to(model.device), fit.bias.to(model.device)
    return Scores(
        lambda name: fit.scores(features.of(name).rows),
        lambda pixels: model.read(pixels)["h"].double() @ coefficients.T + bias,
        split == "test" and features.splits.val is not None,
        "; ".join(filter(None, ["scores of a linear probe on the model's features", probe.note])),
    )


def _logits(features: Features, split: str) -> Tensor:
    logits = features.of(split).logits
    assert logits is not None
    return logits
