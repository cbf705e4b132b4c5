"""SwAV: predict one view's cluster from the other (Caron et al., NeurIPS 2020).

scores = z C^T with unit vectors z and unit prototypes C [K, D]. The codes Q of a view maximise <Q, scores> + epsilon
H(Q) over matrices whose rows sum to 1/B and columns to 1/K, so that no prototype takes all (eq. 3-4). The solution is
diag(u) exp(scores / epsilon) diag(v); Sinkhorn-Knopp finds u, v by dividing columns and rows by their sums in turn.
Times B, a row of Q is an image's distribution over prototypes. The loss swaps them (eq. 1-2):

    loss = - mean over rows of  q_2 log softmax(scores_1 / T)  -  the same with 1 and 2 exchanged

epsilon = 0.05 and 3 iterations, T = 0.1 (appendix A.1). A smaller epsilon gives sharper codes; a large one makes them
all alike. The official code averages the two directions where eq. 1 sums them: we sum. It takes exponentials first,
which overflow beyond scores / epsilon = 88 and leave a far prototype a sum of 0 to divide by; here the same steps are
taken on logarithms.
"""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyview.errors import ManyviewWarning
from manyview.foundation.distributed import gather
from manyview.foundation.words import counted
from manyview.relations.precision import check_temperature, in_float32
from manyview.relations.reading import FitError, Port, Reading, check_alike, check_single, members_of, same_shape
from manyview.views.ops.op import ROWS, check_whole


@in_float32
def sinkhorn(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """The codes of a batch, [B, K]: rows sum to 1, columns nearly to B/K, the nearer the more iterations. No gradient.

    scores: [B, K], rows times prototypes, of any size. An iteration divides columns by their sums, then rows: the
    order of the official code. On several processes give the gathered scores of all, and keep your own rows.
    Raises ValueError for another shape, epsilon <= 0 or iterations < 1.
    """
    if scores.ndim != 2:
        raise ValueError(f"expected scores [B, K], got {tuple(scores.shape)}")
    if not epsilon > 0:
        raise ValueError(f"epsilon must be positive, got {epsilon}")
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}")
    log_q = scores.detach() / epsilon
    for _ in range(iterations):
        log_q = log_q.log_softmax(dim=0).log_softmax(dim=1)
    return log_q.exp()


@in_float32
def swav(
    scores1: Tensor,
    scores2: Tensor,
    temperature: float = 0.1,
    epsilon: float = 0.05,
    iterations: int = 3,
    *others: Tensor,
) -> Tensor:
    """SwAV's loss, a scalar: the sum of both directions, each a mean over rows; no gradient to the codes.

    scores1, scores2: [B, K], unit rows times unit prototypes; they are taken as they are. others: scores of further
    views (small crops), which have no codes but predict those of the two: a direction is then the mean over all views
    that predict its codes (section 3.2, multi-crop). On several processes give the gathered scores of all.
    Raises ValueError for unlike shapes, temperature or epsilon <= 0, iterations < 1.
    """
    same_shape(scores1, scores2, *others)
    check_temperature(temperature)
    q1, q2 = sinkhorn(scores1, epsilon, iterations), sinkhorn(scores2, epsilon, iterations)
    log_p1, log_p2, *log_p = ((scores / temperature).log_softmax(dim=1) for scores in (scores1, scores2, *others))
    from_1, from_2 = sum(log_p, log_p1), sum(log_p, log_p2)
    return -(q2 * from_1 + q1 * from_2).sum(dim=1).mean() / (1 + len(others))


@in_float32
def _scores(z: Tensor, prototypes: Tensor) -> Tensor:
    return F.normalize(z, dim=1) @ prototypes.T


class SwAV(nn.Module):
    """`swav(z(a), z(b), others=z(small), prototypes=100, temperature=0.1, epsilon=0.05, freeze=409)`.

    Owns the prototypes [prototypes, dim], which have unit length at every step. freeze: updates during which they stay
    where they were drawn (AugSelf's code counts steps from 1 and lets go at the 410th: 409). others: small crops, a
    view or a family. Codes balance the rows of all processes; with fewer rows than prototypes they cannot (a
    ManyviewWarning says so).
    """

    symmetric = True
    whole_batch = True

    def __init__(
        self,
        a: Port,
        b: Port,
        *,
        others: Port | None = None,
        prototypes: int = 100,
        temperature: float = 0.1,
        epsilon: float = 0.05,
        iterations: int = 3,
        freeze: int = 0,
    ) -> None:
        super().__init__()
        check_whole("prototypes", prototypes, most=ROWS)
        check_temperature(temperature)
        if type(epsilon) not in (int, float) or not epsilon > 0:
            raise ValueError(f"epsilon must be a positive number, got {epsilon!r}")
        check_whole("iterations", iterations, most=1000)
        check_whole("freeze", freeze, least=0)
        check_alike(a, b)
        check_single(a, b)
        if others is not None and others.dim != a.dim:
            raise FitError(
                f"{others} has {counted(others.dim, 'column')} and {a} has {a.dim}; read the same head of both"
            )
        self.temperature, self.epsilon, self.iterations, self.freeze = temperature, epsilon, iterations, freeze
        self.prototypes = nn.Parameter(F.normalize(torch.randn(prototypes, a.dim), dim=1))
        self.register_buffer("start", self.prototypes.detach().clone())
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))
        self.start: Tensor
        self.updates: Tensor

    def forward(self, a: Reading, b: Reading, *, others: Reading | None = None) -> Tensor:
        scores1, scores2 = self._scores(a.value), self._scores(b.value)
        if len(scores1) < len(self.prototypes):
            warnings.warn(
                f"swav: {counted(len(scores1), 'image')} a step for {len(self.prototypes)} prototypes; "
                "codes cannot use all; "
                "take fewer prototypes or a larger batch",
                ManyviewWarning,
                stacklevel=2,
            )
        small = [] if others is None else members_of(others)
        scores = [self._scores(value) for value in small]
        return swav(scores1, scores2, self.temperature, self.epsilon, self.iterations, *scores)

    def _scores(self, z: Tensor) -> Tensor:
        # while frozen, prototypes are part of the graph with a gradient of zero, which neither momentum nor clip sees
        return gather(_scores(z, torch.where(self.updates < self.freeze, self.start, self.prototypes)))

    @torch.no_grad()
    def after_step(self) -> None:
        """Prototypes come back to unit length; at first, to where they were, whatever weight decay did."""
        self.updates += 1
        unit = F.normalize(self.prototypes, dim=1)
        self.prototypes.copy_(torch.where(self.updates <= self.freeze, self.start, unit))
