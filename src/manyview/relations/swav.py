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

from torch import Tensor

from manyview.relations.precision import check_temperature, in_float32
from manyview.relations.reading import same_shape


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
    scores1: Tensor, scores2: Tensor, temperature: float = 0.1, epsilon: float = 0.05, iterations: int = 3
) -> Tensor:
    """SwAV's loss, a scalar: the sum of both directions, each a mean over rows; no gradient to the codes.

    scores1, scores2: [B, K], unit rows times unit prototypes; they are taken as they are. On several processes give
    the gathered scores of all. Raises ValueError for unlike shapes, temperature or epsilon <= 0, iterations < 1.
    """
    same_shape(scores1, scores2)
    check_temperature(temperature)
    q1, q2 = sinkhorn(scores1, epsilon, iterations), sinkhorn(scores2, epsilon, iterations)
    log_p1, log_p2 = (scores1 / temperature).log_softmax(dim=1), (scores2 / temperature).log_softmax(dim=1)
    return -(q2 * log_p1 + q1 * log_p2).sum(dim=1).mean()
