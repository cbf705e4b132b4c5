"""Cross-entropy with the view's own target, over one or several views; Poly-1 and label smoothing.

Poly-1: Leng et al., "PolyLoss", ICLR 2022, eq. 5: CE + epsilon (1 - P_y), one term of CE's Taylor series
in (1 - P_y) weighted anew. Tied-Augment (Kurtulus et al., ICML 2023) offers it as an option.
Label smoothing is AgMax's baseline (Atienza, WACV 2022), torch's definition: (1 - s) y + s / classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyview.errors import BatchError, RecipeError
from manyview.relations.reading import FitError, Port, Reading, check_classifies, check_labels
from manyview.views.ops.op import beside, check_kind
from manyview.views.ops.soften import Soften

SOFTEN = "soften"


def poly1_cross_entropy(logits: Tensor, labels: Tensor, epsilon: float = 1.0) -> Tensor:
    """Mean over rows of CE + epsilon (1 - P_y).

    logits: [B, C]. labels: integers [B], or soft targets [B, C] (then P_y is the expected probability).
    Returns a scalar. Raises ValueError for shapes that do not match.
    """
    if logits.ndim != 2 or labels.shape not in (logits.shape[:1], logits.shape):
        raise ValueError(
            f"expected logits [B, C] with labels [B] or [B, C], got {tuple(logits.shape)} and {tuple(labels.shape)}"
        )
    probabilities = logits.softmax(dim=1)
    if labels.ndim == 1:
        check_labels(labels, logits.shape[1])
        labels = labels.long()
        p_y = probabilities.gather(1, labels[:, None]).squeeze(1)
    else:
        p_y = (probabilities * labels).sum(dim=1)
    return F.cross_entropy(logits, labels) + epsilon * (1 - p_y).mean()


class CrossEntropy(nn.Module):
    """`cross_entropy(logits(a), logits(b), smoothing=0.0, poly=0.0)`: mean over the rows of all the views.

    Every view is compared with its own target: the label, or the soft target that a mixing op or `soften` gave it.
    reweigh: each row's loss is multiplied by the confidence that `soften`, an op of each of these views, gave its label
    (Soft Augmentation's "target and weight"; Liu et al., CVPR 2023); the mean stays one over rows. Their loss is the
    KL divergence, which is cross-entropy less the target's entropy, so gradients are the same.
    A family of views keeps its image's label for each member; `cross_entropy(logits(r))` over an orbit
    is SLA's baseline "DA" (Lee et al., ICML 2020, section 2.1).
    """

    symmetric = True
    learns_from_labels = True

    def __init__(self, *logits: Port, smoothing: float = 0.0, poly: float = 0.0, reweigh: bool = False) -> None:
        super().__init__()
        if not logits:
            raise RecipeError("cross_entropy needs at least one readout, as in cross_entropy(logits(a))")
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing must be in [0, 1), got {smoothing}")
        if isinstance(poly, bool) or not isinstance(poly, (int, float)):
            raise ValueError(f"poly must be a number, got {poly!r}")
        if smoothing and poly:
            raise ValueError("smoothing and poly are alternatives; give one of them")
        check_kind("reweigh", reweigh, bool, "True or False")
        if reweigh and poly:
            raise ValueError("reweigh and poly are alternatives; give one of them")
        for port in logits:
            check_classifies(port)
        self.smoothing = smoothing
        self.poly = poly
        self.classes = logits[0].classes
        self.softened = [_softened(port) for port in logits] if reweigh else []

    def forward(self, *logits: Reading) -> Tensor:
        value = torch.cat([reading.value for reading in logits])
        target = torch.cat(targets_of(logits))
        if self.poly:
            return poly1_cross_entropy(value, target, self.poly)
        if not self.softened:
            return F.cross_entropy(value, target, label_smoothing=self.smoothing)
        weights = [self._weights(op, reading) for op, reading in zip(self.softened, logits, strict=True)]
        each = F.cross_entropy(value, target, label_smoothing=self.smoothing, reduction="none")
        return (torch.cat(weights).to(each.dtype) * each).mean()

    def _weights(self, op: Soften, reading: Reading) -> Tensor:
        sure = beside(op.confidence(dict(reading.params[SOFTEN]), self.classes), reading.value)
        return sure[:: len(sure) // len(reading.value)]  # of an aggregated family, its first member's, as its target


def _softened(port: Port) -> Soften:
    op = port.ops.get(SOFTEN)
    if not isinstance(op, Soften):
        raise FitError(f"{port.text}: reweigh=True weighs rows by what their view shows; end its ops with soften()")
    return op


def targets_of(readings: tuple[Reading, ...]) -> list[Tensor]:
    """The targets of all readings in one form: labels if all have labels, else soft targets [rows, C]."""
    targets = [reading.target for reading in readings]
    known = [target for target in targets if target is not None]
    if len(known) < len(targets):
        raise BatchError("these views have no targets: pass labels to the step")
    classes = readings[0].value.shape[1]
    for target in known:
        if target.ndim == 1:
            check_labels(target, classes)
    known = [target.long() if target.ndim == 1 else target for target in known]
    if all(target.ndim == 1 for target in known):
        return known
    return [F.one_hot(target, classes).float() if target.ndim == 1 else target for target in known]
