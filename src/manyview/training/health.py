"""How a run without labels fares: whether embeddings are spread, in how many directions, and whether views agree.

All of it looks at unit rows u = z / |z| of a batch, [B, d]:

    z_std           mean over dimensions of the standard deviation over the batch: 1/sqrt(d) where rows lie evenly on
                    the sphere, 0 where all are one (SimSiam, Chen & He, CVPR 2021, section 4.1); z_std_sqrt_d is
                    that times sqrt(d), so between 0 and 1 whatever the width
    effective_rank  exp of the entropy of the singular values over their sum (Roy & Vetterli, EUSIPCO 2007), between 1
                    and min(B, d). Rows are not centred: at collapse all have one direction, which reads 1, where
                    centring would leave the rank of the noise about it
    alignment       mean of |u1 - u2|^2 over the two views of an image: 0 where they are one
    uniformity      log of the mean of exp(-2 |u_i - u_j|^2) over pairs of images i < j of the first view: 0 at
                    collapse, about -4 where rows lie evenly on a sphere of many dimensions
                    (both: Wang & Isola, ICML 2020, with their alpha = 2 and t = 2)

Of a classifier, whose features can be narrow and right, its answers P = softmax(scores) [B, C] are looked at:

    told_apart      entropy of the mean of P minus the mean of its entropies, over ln C: what an answer tells about the
                    image it was given to; 0 where all get the same, whatever it is, 1 where all is told

Low dimensional rows that lie evenly and high dimensional ones that do not may have the same spread: hence the rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS = 256  # of a batch that pairs and ranks look at, the first ones: they cost some 10 ms
COLLAPSED = 0.1  # of z_std * sqrt(d)
PATIENCE = 5  # logged steps in a row
ALIKE = 0.02  # of told_apart; cross-entropy alone on CIFAR-10 has 0.12 after ten updates
YOUNG = 20  # updates, and an epoch or a tenth of the run: so long a classifier may be silent


@torch.no_grad()
def health(z: Sequence[Tensor]) -> dict[str, float]:
    """z_std, z_std_sqrt_d, effective_rank, uniformity, and alignment where there are two views of the same images.

    z: one or two embeddings [B, d], of any precision; computed in float32, and the rank and pairs, which subtract
    nearly equal numbers, in float64 on the first 256 rows. A row of zeros stays one. What cannot be told is nan:
    all for values that are not finite, spread and uniformity for a batch of one.
    """
    with torch.autocast(z[0].device.type, enabled=False):
        units = [F.normalize(rows.float(), dim=1) for rows in z[:2]]
        first = units[0]
        spread = float(first.std(dim=0, correction=0).mean()) if len(first) > 1 else math.nan
        measures = {
            "z_std": spread,
            "z_std_sqrt_d": spread * math.sqrt(first.shape[1]),
            "effective_rank": effective_rank(first[:ROWS]),
            "uniformity": uniformity(first[:ROWS]),
        }
        if len(units) > 1:
            measures["alignment"] = float((first - units[1]).square().sum(dim=1).mean())
    return measures


def effective_rank(rows: Tensor) -> float:
    """exp of the entropy of the singular values of [B, d] over their sum; 0 for zeros, nan for what is not finite."""
    if not rows.isfinite().all():
        return math.nan  # on which the decomposition would fail
    rows = rows.double()
    gram = rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows  # the smaller of two with the same values
    values = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    if not values.any():
        return 0.0
    return float(torch.special.entr(values / values.sum()).sum().exp())


def uniformity(rows: Tensor) -> float:
    """log of the mean of exp(-2 |x - y|^2) over distinct pairs of [B, d]; nan for fewer than two rows."""
    rows, count = rows.double(), len(rows)
    if count < 2:
        return math.nan
    lengths = rows.square().sum(dim=1)
    apart = lengths[:, None] + lengths - 2 * rows @ rows.T
    pairs = apart[torch.ones_like(apart, dtype=torch.bool).triu(diagonal=1)]
    return float(torch.logsumexp(-2 * pairs, dim=0)) - math.log(count * (count - 1) / 2)


@torch.no_grad()
def told_apart(scores: Tensor) -> float:
    """What the answers tell about the image; scores: [B, C], of any precision. nan for what is not finite."""
    answers = scores.double().softmax(dim=1)
    told = torch.special.entr(answers.mean(dim=0)).sum() - torch.special.entr(answers).sum(dim=1).mean()
    return float(told) / math.log(scores.shape[1])


def steps_low(before: int, measures: Mapping[str, float], grown: bool = True) -> int:
    """For how many logged steps in a row the measures have been those of a collapse, this one included.

    With `told_apart`, of a classifier, the answers count, once it has `grown`; else the embeddings' spread.
    """
    answers = "told_apart" in measures
    low = grown and measures["told_apart"] < ALIKE if answers else measures["z_std_sqrt_d"] < COLLAPSED
    return before + 1 if low else 0


def grown(step: int, steps: int, steps_per_epoch: int) -> bool:
    """Whether a run of so many steps has come so far that a classifier should tell images apart."""
    return step > max(YOUNG, min(steps_per_epoch, steps // 10))


def collapse_message(
    measures: Mapping[str, float], step: int, terms: Mapping[str, float] | None = None, labelled: Sequence[str] = ()
) -> str:
    """One line: what was measured, at which step, and what helps.

    terms: of the loss; those of relations that are not `labelled`, which learn from labels, may outweigh the others.
    """
    if "told_apart" in measures:
        return _alike_message(measures, step, terms or {}, labelled)
    return (
        f"the embeddings have collapsed: z_std*sqrt(d) is {measures['z_std_sqrt_d']:.3f} at step {step}, and was under "
        f"{COLLAPSED} at {PATIENCE} logged steps in a row (1 where embeddings are spread evenly, 0 where all images "
        f"have the same); effective rank {measures['effective_rank']:.1f}. What helps: no gradient through the target, "
        f"by stop(...) or an ema branch; a lower lr; a constant lr for the predictor; BatchNorm in the projector; "
        f"lighter views, or heavy views that only move towards light ones"
    )


def _alike_message(
    measures: Mapping[str, float], step: int, terms: Mapping[str, float], labelled: Sequence[str]
) -> str:
    shown: dict[bool, list[str]] = {False: [], True: []}
    for term, value in terms.items():
        shown[term.partition(".")[0] in labelled].append(f"{term} {value:.3f}")
    others = list(dict.fromkeys(term.partition(".")[0] for term in terms if term.partition(".")[0] not in labelled))
    outweighed = f", which {', '.join(shown[False])} may outweigh" if others else ""
    weights = f"a smaller weight, as in relations.{others[0]}.weight=0.1; " if others else ""
    return (
        f"the classifier answers all images nearly alike: told_apart is {measures['told_apart']:.3f} at step {step}, "
        f"and was under {ALIKE} at {PATIENCE} logged steps in a row (0 where all get one answer); the loss from labels "
        f"is {', '.join(shown[True]) or 'none'}{outweighed}. What helps: {weights}a warm-up of lr, as in "
        f"train.schedule.warmup=0.1, by step in a short run (train.schedule.per=step); a lower lr; lighter views; a "
        f"longer run"
    )
