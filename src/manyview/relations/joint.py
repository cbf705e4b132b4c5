"""SLA: one label space of class x transformation (Lee, Hwang, Shin, ICML 2020), and its aggregated inference.

An orbit makes m views of an image (`augment/orbit.py`); the joint label of view t of an image of class y is y*m + t,
and a single head of C*m logits learns it by cross-entropy. Rows of one image lie together: row i*m + t.

At test time (section 2.3): SLA+SI scores the untransformed image by the joint logits at t = 0; SLA+AG averages, over t,
the logits of view t at (class, t); SLA+SD distils that average into a second head of C logits during training:

    loss = joint CE + CE(single head, y) + T^2 KL(softmax(AG / T) || softmax(single / T))
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyview.relations.cross_entropy import targets_of
from manyview.relations.precision import check_temperature
from manyview.relations.reading import (
    Port,
    Reading,
    check_alike,
    check_classifies,
    check_labels,
    check_one_label,
    same_shape,
)


def joint_labels(labels: Tensor, m: int) -> Tensor:
    """Labels of class x transformation: y*m + t at row i*m + t. labels: integers [B] -> [B*m]."""
    return (labels.long()[:, None] * m + torch.arange(m, device=labels.device)).flatten()


def joint_cross_entropy(joint_logits: Tensor, labels: Tensor, m: int, reduction: str = "mean") -> Tensor:
    """Cross-entropy of the joint head, a scalar. joint_logits: [B*m, C*m]; labels: integers [B].

    reduction: "mean" over all B*m rows; "sum" over the m views and mean over images, m times as large (the "large
    loss" the paper uses at ImageNet scale). Raises ValueError for shapes that disagree or another reduction.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be 'mean' or 'sum', got {reduction!r}")
    if len(joint_logits) != len(labels) * m or joint_logits.shape[1] % m:
        raise ValueError(
            f"expected joint logits [B*m, C*m] for {len(labels)} labels and m = {m}, got {tuple(joint_logits.shape)}"
        )
    check_labels(labels, joint_logits.shape[1] // m)
    loss = F.cross_entropy(joint_logits, joint_labels(labels, m))
    return loss * m if reduction == "sum" else loss


REDUCTIONS = ("mean", "sum")


def aggregate(joint_logits: Tensor, m: int) -> Tensor:
    """SLA+AG: class scores [B, C], the mean over t of the joint logit of view t at (class, t).

    joint_logits: [B*m, C*m], rows of one image together. Raises ValueError where m does not divide both.
    """
    rows, columns = joint_logits.shape
    if m < 1 or rows % m or columns % m:
        raise ValueError(f"m = {m} does not divide joint logits of shape {(rows, columns)}")
    by_view = joint_logits.view(rows // m, m, columns // m, m)
    return by_view.diagonal(dim1=1, dim2=3).mean(dim=2)


def distill(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), mean over rows; no gradient to the teacher.

    student, teacher: logits [B, C]. Returns a scalar. Raises ValueError for unlike shapes or temperature <= 0.
    """
    same_shape(student, teacher)
    check_temperature(temperature)
    log_student = (student / temperature).log_softmax(dim=1)
    log_teacher = (teacher.detach() / temperature).log_softmax(dim=1)
    return temperature**2 * F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)


class JointCrossEntropy(nn.Module):
    """`joint_cross_entropy(joint(r), reduction="mean")`, with `joint: linear(h, orbit=r)`."""

    learns_from_labels = True

    def __init__(self, joint: Port, *, reduction: str = "mean") -> None:
        super().__init__()
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction must be 'mean' or 'sum', got {reduction!r}")
        check_classifies(joint, joint.classes * joint.members)
        check_one_label("joint_cross_entropy", joint)
        self.reduction = reduction

    def forward(self, joint: Reading) -> Tensor:
        (target,) = targets_of((joint,))
        if target.ndim != 1:
            raise ValueError("joint_cross_entropy needs one label a row; mixed targets have no joint label")
        return joint_cross_entropy(joint.value, target[:: joint.members], joint.members, self.reduction)


class OrbitCrossEntropy(nn.Module):
    """`orbit_cross_entropy(turn(r))`: which member of the orbit is it? With cross-entropy on the class, SLA's "MT".

    The head has one column a member: `turn: linear(h, 4)` for four rotations (section 2.1, the multi-task baseline).
    """

    def __init__(self, which: Port) -> None:
        super().__init__()
        check_classifies(which, which.members)

    def forward(self, which: Reading) -> Tensor:
        members = torch.arange(which.members, device=which.value.device)
        return F.cross_entropy(which.value, members.repeat(len(which.value) // which.members))


class Distill(nn.Module):
    """`distill(logits(r.0), toward=stop(aggregate(joint(r))), temperature=1)`."""

    def __init__(self, student: Port, *, toward: Port, temperature: float = 1.0) -> None:
        super().__init__()
        check_temperature(temperature)
        check_alike(student, toward)
        self.temperature = temperature

    def forward(self, student: Reading, *, toward: Reading) -> Tensor:
        return distill(student.value, toward.value, self.temperature)
