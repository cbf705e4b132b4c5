"""Scores averaged over an orbit: SLA+AG with a joint head that was trained for it, else augmentation at test time.

SLA+AG (Lee, Hwang, Shin, ICML 2020): the mean over members t of the joint logits of (class, t) for member t. Test-time
augmentation takes the same mean of a plain classifier's logits, which never were told the members apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from manyview.errors import DataError, unknown
from manyview.evaluate.accuracy import accuracy
from manyview.evaluate.report import Cell, Report, Table
from manyview.evaluate.scores import Scores, check_by, scores_of
from manyview.views.ops.orbit import ORBITS, orbit, orbit_size

if TYPE_CHECKING:
    from manyview.data import Splits
    from manyview.evaluate.features import Features

MIRROR = "mirror"
"""Besides the orbits: the image and its mirror image."""


def check_joint(features: Features) -> None:
    """Raises DataError for a model that has no joint head for these data."""
    name = features.model.name
    if features.model.orbit is None:
        raise DataError(f"{name} tells no members of an orbit apart; name one: aggregate(orbit='rotation')")
    if not features.classifies:
        raise DataError(f"{name} has no classifier of these classes; name an orbit: aggregate(orbit='rotation')")


@dataclass(frozen=True)
class Aggregate:
    """Accuracy of scores averaged over an orbit, beside that of the single image, and what it costs.

    orbit: `own`, the one that the model's joint head tells apart (SLA+AG); or any orbit, such as `rotation`, or
    `mirror`, for test-time augmentation of whatever gives scores, see `by` of `robustness`. `forwards` is the number of
    passes an image.
    """

    orbit: str = "own"
    by: str = "auto"

    def __post_init__(self) -> None:
        if self.orbit not in ("own", MIRROR, *ORBITS):
            raise ValueError(unknown("orbit", str(self.orbit), ["own", MIRROR, *ORBITS]))
        check_by(self.by)

    def check(self, splits: Splits) -> None:
        """Nothing is asked of the data beforehand."""

    def measure(self, features: Features, split: str) -> Report:
        """Top-1 accuracy of the averaged scores, `single` of the image alone, and what averaging `gains`."""
        if self.orbit == "own":
            check_joint(features)
            assert features.model.orbit is not None
            outputs = features.of(split, aggregated=True)
            assert outputs.logits is not None
            assert outputs.aggregated is not None
            labels, single, averaged = outputs.labels, outputs.logits, outputs.aggregated
            note = "scores of the model's joint head"
            forwards = orbit_size(features.model.orbit)
        else:
            scores = scores_of(features, split, self.by)
            labels, single, averaged = self._augmented(features, split, scores)
            note = scores.note
            forwards = 2 if self.orbit == MIRROR else orbit_size(self.orbit)
        found = {"one image": accuracy(single, labels), "averaged": accuracy(averaged, labels)}
        names = ("top1", "top5", "class_mean", "loss")
        rows: list[tuple[Cell, ...]] = [
            (what, 1 if what == "one image" else forwards, *(measures[name] for name in names))
            for what, measures in found.items()
        ]
        top1 = {what: measures["top1"] for what, measures in found.items()}
        gain = top1["averaged"] - top1["one image"]
        measures = {"": top1["averaged"], "single": top1["one image"], "gain": gain, "forwards": float(forwards)}
        return Report(measures, {"aggregate": Table(("scores of", "forward passes", *names), tuple(rows))}, note=note)

    @torch.no_grad()
    def _augmented(self, features: Features, split: str, scores: Scores) -> tuple[Tensor, Tensor, Tensor]:
        """Labels, scores of the image, and scores averaged, in the order of the split."""
        images = features.images(split)
        labels, single, averaged = [], [], []
        positions = (images.labels >= 0).nonzero()[0]
        for batch, kept in features.batches(images, positions, watch=f"{self.orbit} of {split}"):
            pixels = features.model.prepare(batch)
            try:
                members = (
                    torch.stack([pixels, pixels.flip(-1)], dim=1) if self.orbit == MIRROR else orbit(pixels, self.orbit)
                )
            except ValueError as error:
                raise DataError(f"aggregate: {error}") from None
            each = [scores.read(member).float().cpu() for member in members.unbind(dim=1)]
            single.append(each[0])
            averaged.append(torch.stack(each).mean(dim=0))
            labels.append(torch.from_numpy(images.labels[kept]))
        if not labels:
            raise DataError(f"aggregate: no labelled image of split '{split}' could be read")
        return torch.cat(labels), torch.cat(single), torch.cat(averaged)
