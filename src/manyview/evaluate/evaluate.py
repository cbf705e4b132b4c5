"""Evaluation of a step on a split: one pass for features and scores, then the protocols, functions on those."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from manyview.branches import FEATURES, LOGITS
from manyview.data.images import Images
from manyview.data.loader import read_images
from manyview.errors import DataError
from manyview.evaluate.knn import knn_predict
from manyview.evaluate.protocols import Classify, Knn, Protocol
from manyview.step import Step

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Outputs:
    """What a step gives for a split, on the CPU: features [N, dim], scores [N, classes] where it classifies."""

    features: Tensor
    labels: Tensor
    logits: Tensor | None = None
    aggregated: Tensor | None = None


def collect(
    step: Step,
    images: Images,
    *,
    aggregated: bool = False,
    batch_size: int = 256,
    skipped: list[str] | None = None,
    progress: Progress | None = None,
) -> Outputs:
    """Runs every image of a split through the step in evaluation mode, none dropped; leaves the mode as it was.

    skipped: receives a line on each image that cannot be read; without it, such an image raises BadImage.
    """
    training = step.training
    step.eval()
    parts: dict[str, list[Tensor]] = {}
    for start in range(0, len(images), batch_size):
        positions = np.arange(start, min(start + batch_size, len(images)))
        batch, kept, bad = read_images(images, positions, skip=skipped is not None)
        if skipped is not None:
            skipped += bad
        if len(kept):
            for name, value in step.predict(batch, aggregated=aggregated).items():
                parts.setdefault(name, []).append(value.cpu())
            parts.setdefault("labels", []).append(torch.from_numpy(images.labels[kept]))
        if progress is not None:
            progress(int(positions[-1]) + 1, len(images))
    step.train(training)
    if not parts:
        raise DataError(f"none of {len(images)} images could be read; the first: {images.name(0)}")
    whole = {name: torch.cat(values) for name, values in parts.items()}
    return Outputs(whole[FEATURES], whole["labels"], whole.get(LOGITS), whole.get("aggregated"))


def accuracy(scores: Tensor, labels: Tensor) -> dict[str, float]:
    """top1, top5, class_mean in percent, and the cross-entropy `loss`. scores: [N, classes]; labels: [N]."""
    ranked = scores.topk(min(5, scores.shape[1]), dim=1).indices == labels[:, None]
    right = ranked[:, 0].float()
    per_class = [right[labels == label].mean() for label in labels.unique()]
    return {
        "top1": 100 * float(right.mean()),
        "top5": 100 * float(ranked.any(dim=1).float().mean()),
        "class_mean": 100 * float(torch.stack(per_class).mean()),
        "loss": float(F.cross_entropy(scores, labels)),
    }


def evaluate(
    step: Step,
    images: Images,
    protocols: Sequence[Protocol],
    bank: Images | None = None,
    *,
    skipped: list[str] | None = None,
    progress: Progress | None = None,
) -> dict[str, float]:
    """All protocols on one split: measure -> value, accuracies in percent.

    bank: the training images, for kNN. skipped: receives a line on each image that cannot be read, see `collect`.
    """
    classifies = step.classifier is not None and any(isinstance(p, Classify) for p in protocols)
    outputs = collect(step, images, aggregated=classifies and step.can_aggregate, skipped=skipped, progress=progress)
    measures: dict[str, float] = {}
    if classifies and outputs.logits is not None:
        measures |= accuracy(outputs.logits, outputs.labels)
        if outputs.aggregated is not None:
            measures |= {f"aggregated_{k}": v for k, v in accuracy(outputs.aggregated, outputs.labels).items()}
    neighbours = [protocol for protocol in protocols if isinstance(protocol, Knn)]
    if neighbours:
        if bank is None:
            raise DataError("knn needs training images as its bank")
        stored = collect(step, bank, skipped=skipped, progress=progress)
    for knn in neighbours:
        predicted = knn_predict(
            outputs.features, stored.features, stored.labels, step.num_classes, knn.k, knn.temperature
        )
        name = "knn" if len(neighbours) == 1 else f"knn(k={knn.k}, temperature={knn.temperature:g})"
        measures[name] = 100 * float((predicted == outputs.labels).float().mean())
    return measures


def with_accuracy(protocols: Sequence[Protocol], step: Step) -> list[Protocol]:
    """The protocols, and accuracy first wherever something classifies."""
    missing = step.classifier is not None and not any(isinstance(p, Classify) for p in protocols)
    return [Classify(), *protocols] if missing else list(protocols)


def check_protocols(protocols: Sequence[Protocol], bank: int) -> None:
    """Raises DataError for a kNN with more neighbours than there are training images."""
    for protocol in protocols:
        if isinstance(protocol, Knn) and protocol.k > bank:
            raise DataError(f"evaluate: knn(k={protocol.k}) needs as many training images, there are {bank}; lower k")
