"""Evaluation of a model on a split: the protocols, functions on features that were extracted once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from manyview.data import Splits
from manyview.errors import ManyviewError, Unreadable, WordsError, brief
from manyview.evaluate.accuracy import Classify
from manyview.evaluate.aggregate import Aggregate, check_joint
from manyview.evaluate.features import Features
from manyview.evaluate.knn import Knn
from manyview.evaluate.model import Model
from manyview.evaluate.on_one_set import Measure
from manyview.evaluate.protocols import call_of, measure_names
from manyview.evaluate.report import Report
from manyview.evaluate.scores import check_classifier
from manyview.foundation.vocabulary import own_fault
from manyview.step import Step

T = TypeVar("T")


def evaluate(
    features: Features,
    split: str,
    protocols: Sequence[Measure],
    failed: dict[str, str] | None = None,
    notes: dict[str, str] | None = None,
    each: dict[str, Any] | None = None,
) -> dict[str, float]:
    """All protocols on one split: measure -> value, accuracies in percent (see `flat`).

    Only labelled images count, and of train only they are learnt from. Raises DataError for a split that is not there
    or has none. failed: receives, by its call, why a protocol could not be measured, and the others are; without it,
    and for `classify` unless no image can be read, that is raised. notes: receives, by its call and split, what a
    reader has to know of a protocol. each: receives what protocols say of every image or task, see `Report`.
    """
    reports = {}
    for protocol in dict.fromkeys(protocols):
        try:
            report = reports[protocol] = measured(protocol, features, split)
        except ManyviewError as error:
            if failed is None or (isinstance(protocol, Classify) and not isinstance(error, Unreadable)):
                raise
            failed[call_of(protocol)] = str(error)
            continue
        if notes is not None and report.note:
            notes[f"{call_of(protocol)} on {split}"] = report.note
    if each is not None:
        each |= in_one(reports, lambda report: report.each)
    return flat(reports)


def measured(protocol: Measure, features: Features, split: str) -> Report:
    """What a protocol finds. Raises WordsError, in a line, for one of the user's own that fails or gives no report."""
    try:
        report: Any = protocol.measure(features, split)
    except ManyviewError:
        raise
    except Exception as error:
        if (own := own_fault(error)) is None:
            raise
        raise WordsError(f"{call_of(protocol)}: {own}") from None
    whole = isinstance(report, Report) and all(
        isinstance(key, str) and isinstance(value, int | float) for key, value in report.measures.items()
    )
    if whole and not all(_is_kept(key, value) for key, value in report.each.items()):
        kept = brief(dict(report.each))
        raise WordsError(f"{call_of(protocol)}: each of a Report is arrays of numbers by name, got {kept}")
    if not whole:
        got = dict(report.measures) if isinstance(report, Report) else report
        raise WordsError(f"{call_of(protocol)}: measure gives a Report of numbers by name, got {brief(got)}")
    return report


def _is_kept(key: Any, value: Any) -> bool:
    return isinstance(key, str) and isinstance(value, np.ndarray) and value.dtype.kind in "biuf" and value.itemsize <= 8


def flat(reports: Mapping[Measure, Report]) -> dict[str, float]:
    """All measures by name: of the protocol, and what it calls the measure, as `knn`, `linear`, `linear_weight`.

    Those of `classify` go by their own names: `top1`.
    """
    return in_one(reports, lambda report: report.measures)


def in_one(reports: Mapping[Measure, Report], of: Callable[[Report], Mapping[str, T]]) -> dict[str, T]:
    """A part of all reports by the names of `flat`."""
    return {
        key or name if isinstance(protocol, Classify) else "_".join(filter(None, (name, key))): value
        for protocol, name in measure_names(list(reports)).items()
        for key, value in of(reports[protocol]).items()
    }


def with_accuracy(protocols: Sequence[Measure], step: Step) -> list[Measure]:
    """The protocols, and accuracy first wherever something classifies."""
    missing = step.classifier is not None and not any(isinstance(p, Classify) for p in protocols)
    return [Classify(), *protocols] if missing else list(protocols)


def while_training(protocols: Sequence[Measure], step: Step, splits: Splits) -> tuple[str, list[Measure]]:
    """The measure that tells which weights are best, and what is measured on val for it while a run goes on.

    Accuracy where something classifies. Else the first kNN, or with protocols but no kNN one of usual settings: a
    probe would take too long.
    """
    if step.classifier is not None:
        return "top1", [Classify()]
    known = int((splits.train.labels >= 0).sum())
    named: list[Measure] = [protocol for protocol in protocols if isinstance(protocol, Knn)]
    if protocols and known and not named:
        named = [Knn(k=min(Knn().k, known))]
    return "knn", named[:1]


def check_protocols(protocols: Sequence[Measure], splits: Splits) -> None:
    """Raises DataError for what can be known to be impossible on these data."""
    if splits.val is None and splits.test is None:
        return  # nothing will be measured
    for protocol in protocols:
        protocol.check(splits)


def check_model(protocols: Sequence[Measure], model: Model, splits: Splits) -> None:
    """Raises DataError for what this model will never tell; before it is trained, weights do not matter."""
    features = Features(model, splits)
    for protocol in protocols:
        if getattr(protocol, "by", None) == "classifier":
            check_classifier(features)
        if isinstance(protocol, Aggregate) and protocol.orbit == "own":
            check_joint(features)
