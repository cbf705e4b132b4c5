"""AgMax: maximise the agreement of two views' predictions (Atienza, WACV 2022); and three simpler agreements.

Mutual information between the predictions on two views is I = H(P_a) + H(P_b) - H(P_a, P_b). A small net Q reads
both logits, l_ab = Q([l_a, l_b]), and stands for the joint. The loss has two terms beside cross-entropy:

    entropy    = 1/3 * sum over a, b, ab of  sum_c  Pm_c log Pm_c        (Pm: the batch's marginal)
    divergence = w * mean | [P_ab, P_ab] - [P_a, P_b] |                  (over 2B rows and C classes)

Minimising the first spreads the marginals over the classes; the second pulls both views to the joint. w = 4.

The mean over classes makes the pull on a row 4/C: weak for a thousand classes. `over_classes="sum"` gives a weight
that does not depend on C; the default follows the official code.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyview.branches.initial import Normal
from manyview.errors import unknown
from manyview.foundation.distributed import gather
from manyview.relations.reading import Port, Reading, check_alike, same_shape
from manyview.views.ops.op import WIDTH, check_whole


def agmax(
    l1: Tensor, l2: Tensor, joint: Tensor, divergence_weight: float = 4.0, over_classes: str = "mean"
) -> tuple[Tensor, Tensor]:
    """AgMax's two terms, (entropy, divergence), each a scalar to minimise and already weighted.

    l1, l2: logits of the two views [B, C]. joint: logits of Q on both [B, C].
    Marginals are floored at the epsilon of their precision, 1.2e-7 for float32; the official code's floor is float64's,
    2.2e-16, whatever the precision. Raises ValueError for unlike shapes.
    """
    same_shape(l1, l2, joint)
    if over_classes not in OVER_CLASSES:
        raise ValueError(f"over_classes must be 'mean' or 'sum', got {over_classes!r}")
    p1, p2, p12 = l1.softmax(dim=1), l2.softmax(dim=1), joint.softmax(dim=1)
    entropy = (_negative_entropy(p1) + _negative_entropy(p2) + _negative_entropy(p12)) / 3
    apart = (torch.cat([p12, p12]) - torch.cat([p1, p2])).abs()
    divergence = apart.mean() if over_classes == "mean" else apart.sum(dim=1).mean()
    return entropy, divergence_weight * divergence


def _negative_entropy(probabilities: Tensor) -> Tensor:
    marginal = probabilities.sum(dim=0)
    marginal = (marginal / marginal.sum()).clamp_min(torch.finfo(marginal.dtype).eps)
    return (marginal * marginal.log()).sum()


def agreement(l1: Tensor, l2: Tensor, kind: str = "mse") -> Tensor:
    """The simpler agreements AgMax is compared with: a scalar to minimise. l1, l2: logits [B, C].

    mse — mean over B*C of the squared difference of logits; probabilities — the same of softmaxes, as Mean Teacher's
    (Tarvainen & Valpola, NeurIPS 2017); kl — KL(P_2 || P_1), mean over rows;
    ce — -P_1 log P_2, mean over rows *and classes*, as in the official code.
    Raises ValueError for an unknown kind and unlike shapes.
    """
    if kind not in AGREEMENTS:
        raise ValueError(unknown("kind of agreement", kind, AGREEMENTS, "kinds"))
    same_shape(l1, l2)
    if kind == "mse":
        return F.mse_loss(l1, l2)
    if kind == "probabilities":
        return F.mse_loss(l1.softmax(dim=1), l2.softmax(dim=1))
    log_p1, log_p2 = l1.log_softmax(dim=1), l2.log_softmax(dim=1)
    if kind == "kl":
        return F.kl_div(log_p1, log_p2, reduction="batchmean", log_target=True)
    return -(log_p1.exp() * log_p2).mean()


OVER_CLASSES = ("mean", "sum")
AGREEMENTS = ("mse", "probabilities", "kl", "ce")


def joint_width(classes: int) -> int:
    """Hidden units of Q: 128 for ten classes, 512 for hundreds, 4096 from a thousand on (the official rule)."""
    if classes >= 1000:
        return 4096
    return 512 if classes >= 100 else 128


class AgMax(nn.Module):
    """`agmax(logits(a), logits(b), hidden=128, divergence_weight=4)`: owns Q; gives entropy and divergence.

    Q: Linear(2C, hidden) - ReLU - Linear(hidden, C). It starts as its branch does (`init` of the branch; torch's way
    without one, as in the authors' WRN configurations); std: N(0, std) instead, biases zero. hidden: by default the
    official rule of `joint_width`. over_classes: "mean" (official) or "sum". On several processes the marginals are
    those of the joined batch.
    """

    whole_batch = True

    def __init__(
        self,
        a: Port,
        b: Port,
        *,
        hidden: int | None = None,
        divergence_weight: float = 4.0,
        over_classes: str = "mean",
        std: float | None = None,
    ) -> None:
        super().__init__()
        if over_classes not in OVER_CLASSES:
            raise ValueError(f"over_classes must be 'mean' or 'sum', got {over_classes!r}")
        if isinstance(divergence_weight, bool) or divergence_weight < 0:
            raise ValueError(f"divergence_weight must not be negative, got {divergence_weight}")
        self.init = None if std is None else Normal(std)
        hidden = joint_width(a.dim) if hidden is None else hidden
        if hidden < 1:
            raise ValueError(f"hidden must be at least 1, got {hidden}")
        check_whole("hidden", hidden, most=WIDTH)
        check_alike(a, b)
        self.joint = nn.Sequential(nn.Linear(2 * a.dim, hidden), nn.ReLU(), nn.Linear(hidden, a.dim))
        if self.init is not None:
            self.init(self.joint)
        self.divergence_weight = divergence_weight
        self.over_classes = over_classes

    def forward(self, a: Reading, b: Reading) -> dict[str, Tensor]:
        joint = self.joint(torch.cat([a.value, b.value], dim=1))
        l1, l2, joint = gather(a.value), gather(b.value), gather(joint)
        entropy, divergence = agmax(l1, l2, joint, self.divergence_weight, self.over_classes)
        return {"entropy": entropy, "divergence": divergence}


class Agreement(nn.Module):
    """`agreement(logits(a), logits(b), kind="mse")`: mse, probabilities, kl (towards the second view) or ce."""

    def __init__(self, a: Port, b: Port, *, kind: str = "mse") -> None:
        super().__init__()
        if kind not in AGREEMENTS:
            raise ValueError(unknown("kind of agreement", kind, AGREEMENTS, "kinds"))
        check_alike(a, b)
        self.kind = kind

    def forward(self, a: Reading, b: Reading) -> Tensor:
        return agreement(a.value, b.value, self.kind)
