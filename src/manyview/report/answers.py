"""What a trained network says of a split: how often which class is taken for which, examples, and how sure it was."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from manyview.data import BadImage
from manyview.evaluate.calibration import Calibration
from manyview.evaluate.features import Features
from manyview.evaluate.knn import Knn, knn_predict
from manyview.evaluate.report import Table
from manyview.foundation.environment import best_device
from manyview.foundation.words import counted
from manyview.judge.subject import open_subject
from manyview.report.blocks import Block, Picture, Rows, Strips, Text
from manyview.report.charts import confusion
from manyview.report.protocols import diagram
from manyview.report.seen import picture
from manyview.show.display import Display
from manyview.words.load import Use

MOST_CLASSES = 40
"""Of a confusion matrix that is drawn."""
MOST_NEIGHBOURS = 100_000
"""Training images that a page passes through the network."""
PAIRS, EXAMPLES = 6, 4
"""Confusions that are shown by images, and images of each."""
TABLED = 20
"""Confusions in a table, where there are too many classes for a matrix."""


def answers(
    folder: Path, key: str, split: str, overrides: Sequence[str], use: Use | Sequence[Use], quiet: bool = True
) -> list[Block]:
    """The run's kept weights on a split, by its own classifier, else by its nearest neighbours.

    Raises ManyviewError where the data are not at hand, or the run has no such split or no weights yet.
    """
    subject = open_subject(folder, overrides, device=best_device(), use=use)
    features = subject.features(Display(quiet).evaluating)
    if getattr(subject.splits, split) is None:
        return [
            Text(f"No answers are shown: there is no split '{split}'; this run has {subject.splits.note}.", told=True)
        ]
    outputs = features.of(split)
    labels, logits = outputs.labels, outputs.logits
    if logits is None and not _at_hand(features):
        train = counted(len(features.splits.train), "training image")
        told = f"No answers: nothing classifies, and {train} would pass through the network to be the neighbours"
        return [Text(f"{told}; once manyview eval RUN knn has kept their features, they are.", told=True)]
    if logits is not None and not bool(logits.isfinite().all()):
        return [Text("No answers: the network's scores are not finite.", told=True)]
    if logits is None:
        usual = next((each for each in subject.usual if isinstance(each, Knn)), Knn())
        said, k = _nearest(features, split, usual)
        who, sure = f"the {k} nearest training images", None
    else:
        chances = logits.double().softmax(dim=1)
        said, sure, who = chances.argmax(dim=1), chances.max(dim=1).values, "the run's own classifier"
    classes = subject.splits.classes
    told = f"Answers of {who} to {counted(len(labels), 'image')} of {split}, by the weights that the run kept."
    counts = torch.zeros(len(classes), len(classes), dtype=torch.int64)
    counts.index_put_((labels, said), torch.ones_like(labels), accumulate=True)
    blocks: list[Block] = [Text(told), *_matrix(f"{key}-confusion", classes, counts)]
    if logits is not None:
        report = Calibration(by="classifier").measure(features, split)
        blocks += diagram(f"{key}-reliability", report.tables["as it is"], report.measures[""], report.note)
    return [*blocks, *_examples(features, split, classes, counts, labels, said, sure)]


def _at_hand(features: Features) -> bool:
    """Whether features of the training images are kept, or soon made."""
    train = features.images("train")
    few = len(train) <= MOST_NEIGHBOURS
    return few or (features.keeper is not None and features.keeper(features.model, train).load() is not None)


def _nearest(features: Features, split: str, usual: Knn) -> tuple[Tensor, int]:
    """What the nearest training images say [N], and how many they are."""
    known, asked = features.of("train"), features.of(split)
    k = min(usual.k, len(known.labels))
    return knn_predict(asked.features, known.features, known.labels, features.classes, k, usual.temperature), k


def _matrix(key: str, classes: Sequence[str], counts: Tensor) -> list[Block]:
    if len(classes) <= MOST_CLASSES:
        note = "Rows are what images are, columns what was said of them; shades are shares of a row."
        return [confusion(key, "What is taken for what", classes, counts.tolist(), note)]
    rows = [
        (classes[own], classes[said], int(counts[own, said]), int(counts[own].sum()))
        for own, said in _confused(counts)[:TABLED]
    ]
    table = Table(("is", "said", "images", "of"), tuple(rows))
    return [Rows("The most frequent confusions", table, f"Of {counted(len(classes), 'class')}, too many for a matrix.")]


def _confused(counts: Tensor) -> list[tuple[int, int]]:
    """Pairs (class, what was said) that are wrong and occurred, the most frequent first."""
    wrong = counts.clone().fill_diagonal_(0).flatten()
    order = wrong.argsort(descending=True, stable=True)[: int((wrong > 0).sum())]
    return [divmod(int(at), counts.shape[1]) for at in order]


def _examples(
    features: Features,
    split: str,
    classes: Sequence[str],
    counts: Tensor,
    labels: Tensor,
    said: Tensor,
    sure: Tensor | None,
) -> list[Block]:
    """Images of the most frequent confusions, those of which the network was surest first."""
    images = features.images(split)
    labelled = np.flatnonzero(images.labels >= 0)
    pairs = _confused(counts)[:PAIRS]
    if not pairs:
        return [Text("No image was taken for another class.")]
    if len(labelled) != len(labels):
        return [Text("No examples: some images cannot be read, so answers cannot be told apart by image.", told=True)]
    rows: list[tuple[str, list[Picture]]] = []
    for own, other in pairs:
        found = ((labels == own) & (said == other)).nonzero()[:, 0]
        if sure is not None:
            found = found[sure[found].argsort(descending=True, stable=True)]
        shown = []
        for row in found[:EXAMPLES].tolist():
            how = [] if sure is None else [f"{100 * float(sure[row]):.0f} % sure"]
            try:
                image = images.read(int(labelled[row]))
            except BadImage:
                continue
            shown.append(picture(image, f"{classes[own]}, said to be {classes[other]}", "", how))
        rows.append((f"{classes[own]}, said to be {classes[other]}: {int(counts[own, other])}", shown))
    return [Strips("The most frequent mistakes", rows)]


__all__ = ["answers"]
