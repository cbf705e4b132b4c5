"""AugMix's Jensen–Shannon consistency (Hendrycks et al., ICLR 2020, eq. 1–2).

    M = mean over views of P_v;   loss = mean over views of KL(P_v || M)

The usual recipe: cross-entropy on the clean view alone, weight 12, one clean and two augmented views (timm's
`JsdCrossEntropy` splits). Tied-Augment uses the same term between its two views.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyview.errors import RecipeError
from manyview.relations.reading import Port, Reading, check_alike, same_shape


def jensen_shannon(*logits: Tensor) -> Tensor:
    """Mean over the views of KL(P_v || M), mean over rows: a scalar, 0 when all views predict alike.

    logits: two or more tensors [B, C]. M is clamped to [1e-7, 1] before its logarithm, as in AugMix and timm.
    Raises ValueError for fewer than two views or unlike shapes.
    """
    if len(logits) < 2:
        raise ValueError(f"jensen_shannon compares two or more views, got {len(logits)}")
    same_shape(*logits)
    log_probabilities = [view.log_softmax(dim=1) for view in logits]
    mixture = torch.stack([log_p.exp() for log_p in log_probabilities]).mean(dim=0)
    log_mixture = mixture.clamp(1e-7, 1).log()
    # from log-probabilities, since the gradient of p log p is not finite at an underflown p
    divergences = [F.kl_div(log_mixture, log_p, reduction="batchmean", log_target=True) for log_p in log_probabilities]
    return torch.stack(divergences).mean()


class JensenShannon(nn.Module):
    """`jensen_shannon(logits(clean), logits(m1), logits(m2), weight=12)`."""

    symmetric = True

    def __init__(self, *logits: Port) -> None:
        super().__init__()
        if len(logits) < 2:
            raise RecipeError(
                "jensen_shannon compares two or more readouts, as in jensen_shannon(logits(a), logits(b))"
            )
        check_alike(*logits)

    def forward(self, *logits: Reading) -> Tensor:
        return jensen_shannon(*(reading.value for reading in logits))
