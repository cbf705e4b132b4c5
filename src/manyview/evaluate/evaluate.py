"""Evaluation of a step on a split: the protocols, functions on features that were extracted once."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from manyview.data import Splits, hold_out, labelled
from manyview.errors import DataError
from manyview.evaluate.accuracy import accuracy
from manyview.evaluate.features import Features
from manyview.evaluate.knn import knn_predict
from manyview.evaluate.linear import WEIGHTS, linear_probe
from manyview.evaluate.protocols import Classify, Knn, Linear, Protocol, measure_names
from manyview.step import Step

HELD_OUT = 0.1


def evaluate(features: Features, split: str, protocols: Sequence[Protocol]) -> dict[str, float]:
    """All protocols on one split: measure -> value, accuracies in percent; `linear_weight` is the penalty chosen.

    Only labelled images count, and of train only they are learnt from. Raises DataError for a split that is not there
    or has none.
    """
    measures: dict[str, float] = {}
    for protocol, name in measure_names(protocols).items():
        match protocol:
            case Classify():
                measures |= _classify(features, split)
            case Knn():
                measures[name] = _knn(features, split, protocol)
            case Linear():
                measures[name], measures[f"{name}_weight"] = _linear(features, split, protocol)
    return measures


def _classify(features: Features, split: str) -> dict[str, float]:
    step = features.step
    if step.classifier is None:
        return {}
    outputs = features.of(split, aggregated=step.can_aggregate)
    measures: dict[str, float] = {}
    if outputs.logits is not None:
        measures |= accuracy(outputs.logits, outputs.labels)
    if outputs.aggregated is not None:
        measures |= {f"aggregated_{k}": v for k, v in accuracy(outputs.aggregated, outputs.labels).items()}
    return measures


def _knn(features: Features, split: str, knn: Knn) -> float:
    queries, bank = features.of(split), features.of("train")
    classes = features.step.num_classes
    predicted = knn_predict(queries.features, bank.features, bank.labels, classes, knn.k, knn.temperature)
    return 100 * float((predicted == queries.labels).float().mean())


def _linear(features: Features, split: str, linear: Linear) -> tuple[float, float]:
    """The accuracy, and the penalty that was chosen."""
    measured, train, step = features.of(split), features.of("train"), features.step
    if split == "test" and features.splits.val is not None:
        val = features.of("val")
        fitted, held = (train.features, train.labels), (val.features, val.labels)
    else:
        count = max(1, round(HELD_OUT * len(train.labels)))
        rest, out = map(torch.from_numpy, hold_out(train.labels.numpy(), count, step.recipe.seed, "linear"))
        if not len(out):
            raise DataError(NONE_TO_HOLD)
        fitted, held = (train.features[rest], train.labels[rest]), (train.features[out], train.labels[out])
    with features.watch("linear", len(WEIGHTS), "penalties") as tick:
        try:
            probe = linear_probe(*fitted, *held, step.num_classes, metric=linear.metric, progress=tick)
        except ValueError as error:
            raise DataError(f"linear: {error}") from None
    return accuracy(probe.fit.scores(measured.features), measured.labels)[linear.metric], probe.weight


NONE_TO_HOLD = "evaluate: linear holds out training images to choose its penalty on, and every class has only one"


def with_accuracy(protocols: Sequence[Protocol], step: Step) -> list[Protocol]:
    """The protocols, and accuracy first wherever something classifies."""
    missing = step.classifier is not None and not any(isinstance(p, Classify) for p in protocols)
    return [Classify(), *protocols] if missing else list(protocols)


def while_training(protocols: Sequence[Protocol], step: Step, splits: Splits) -> tuple[str, list[Protocol]]:
    """The measure that tells which weights are best, and what is measured on val for it while a run goes on.

    Accuracy where something classifies. Else the first kNN, or with protocols but no kNN one of usual settings: a
    probe would take too long.
    """
    if step.classifier is not None:
        return "top1", [Classify()]
    known = len(labelled(splits.train))
    named: list[Protocol] = [protocol for protocol in protocols if isinstance(protocol, Knn)]
    if protocols and known and not named:
        named = [Knn(k=min(Knn().k, known))]
    return "knn", named[:1]


def check_protocols(protocols: Sequence[Protocol], splits: Splits) -> None:
    """Raises DataError for a kNN with more neighbours than there are training images with labels, and for a linear
    probe where none can be held out to choose by."""
    labels = labelled(splits.train).labels
    if splits.val is None and splits.test is None:
        return  # nothing will be measured
    for protocol in protocols:
        if not len(labels) and not isinstance(protocol, Classify):
            raise DataError(f"evaluate: no training image has a label to compare with; this run has {splits.note}")
        if isinstance(protocol, Knn) and protocol.k > len(labels):
            raise DataError(
                f"evaluate: knn(k={protocol.k}) needs as many training images, there are {len(labels)}; lower k, as in "
                f"evaluate.knn.k={len(labels)}"
            )
        holds_out = isinstance(protocol, Linear) and (splits.val is None or splits.test is None)
        if holds_out and len(labels) <= len(set(labels.tolist())):
            raise DataError(NONE_TO_HOLD)
