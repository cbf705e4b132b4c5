"""How a run without labels fares: whether embeddings are spread, in how many directions, and whether views agree.

All of it looks at unit rows u = z / |z| of a batch, [B, d]:

    z_std           mean over dimensions of the standard deviation over the batch: 1/sqrt(d) where rows lie evenly on
                    the sphere, 0 where all are one (SimSiam, Chen & He, CVPR 2021, section 4.1); z_std_sqrt_d is
                    that times sqrt(d), so between 0 and 1 whatever the width
    effective_rank  exp of the entropy of the singular values over their sum (Roy & Vetterli, EUSIPCO 2007), between 1
                    and min(B, d). Rows are not centred: at collapse all have one direction, which reads 1, where
                    centring would leave the rank of the noise about it
    lidar           where there are two views of an image: the same of the ratio of scatter among images to that among
                    the views of one (Thilak et al., "LiDAR", ICLR 2024, eq. 1-3), between 1 and the number of images
                    less one: in how many directions images differ by more than their views do. 1e-4 is added to the
                    scatter among views, so at collapse the noise among images counts
    alignment       mean of |u1 - u2|^2 over the two views of an image: 0 where they are one
    uniformity      log of the mean of exp(-2 |u_i - u_j|^2) over pairs of images i < j of the first view: 0 at
                    collapse, about -4 where rows lie evenly on a sphere of many dimensions
                    (both: Wang & Isola, ICML 2020, with their alpha = 2 and t = 2)

Of a classifier, whose features can be narrow and right, its answers P = softmax(scores) [B, C] are looked at:

    told_apart      entropy of the mean of P minus the mean of its entropies, over ln C: what an answer tells about the
                    image it was given to; 0 where all get the same, whatever it is, 1 where all is told

Of a teacher and its student, DINO's, the teacher's answers are looked at alike, see `relations.dino`: its measure
`told` is told_apart over the columns of its head.

Low dimensional rows that lie evenly and high dimensional ones that do not may have the same spread: hence the rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS = 256  # of a batch that pairs and ranks look at, the first ones: they cost some 10 ms
RIDGE = 1e-4  # of LiDAR's scatter among views
COLLAPSED = 0.1  # of z_std * sqrt(d)
PATIENCE = 5  # logged steps in a row
ALIKE = 0.02  # of told_apart; cross-entropy alone on CIFAR-10 has 0.12 after ten updates
TOLD = ".told"  # the measure of a relation with a teacher, over all that its answers could tell
YOUNG = 20  # updates, and an epoch or a tenth of the run: so long a classifier may be silent


@torch.no_grad()
def health(z: Sequence[Tensor]) -> dict[str, float]:
    """z_std, z_std_sqrt_d, effective_rank, uniformity; of two views of the same images alignment and lidar, too.

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
            measures["lidar"] = lidar(first[: ROWS // 2], units[1][: ROWS // 2])
    return measures


def effective_rank(rows: Tensor) -> float:
    """exp of the entropy of the singular values of [B, d] over their sum; 0 for zeros, nan for what is not finite."""
    if not rows.isfinite().all():
        return math.nan  # on which the decomposition would fail
    rows = rows.double()
    gram = rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows  # the smaller of two with the same values
    return _perplexity(torch.linalg.eigvalsh(gram).clamp_min(0).sqrt())


def _perplexity(values: Tensor) -> float:
    """exp of the entropy of values over their sum; 0 for zeros."""
    return float(torch.special.entr(values / values.sum()).sum().exp()) if bool(values.any()) else 0.0


def lidar(first: Tensor, second: Tensor) -> float:
    """LiDAR of two views of the same images, each [B, d]; 0 where images do not differ, nan for what is not finite."""
    if not (first.isfinite().all() and second.isfinite().all()):
        return math.nan
    first, second = first.double(), second.double()
    if len(first) * 2 < first.shape[1]:  # outside the rows' span there is nothing
        basis = torch.linalg.qr(torch.cat([first, second]).T)[0]
        first, second = first @ basis, second @ basis
    middle, half = (first + second) / 2, (first - second) / 2
    among = middle - middle.mean(dim=0)
    within = half.T @ half / len(half) + RIDGE * torch.eye(first.shape[1], dtype=first.dtype, device=first.device)
    whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(within), among.T, upper=False)
    gram = whitened @ whitened.T if whitened.shape[0] <= whitened.shape[1] else whitened.T @ whitened
    return _perplexity(torch.linalg.eigvalsh(gram).clamp_min(0))


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

    With `told_apart`, of a classifier, or a relation's `told`, of a teacher, the answers count, once they have `grown`;
    else the embeddings' spread.
    """
    answers = [value for name, value in measures.items() if name == "told_apart" or name.endswith(TOLD)]
    low = grown and min(answers) < ALIKE if answers else measures["z_std_sqrt_d"] < COLLAPSED
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
    if dull := [name.removesuffix(TOLD) for name, value in measures.items() if name.endswith(TOLD) and value < ALIKE]:
        return _teacher_message(measures, step, dull[0])
    return (
        f"the embeddings have collapsed: z_std*sqrt(d) is {measures['z_std_sqrt_d']:.3f} at step {step}, and was under "
        f"{COLLAPSED} at {PATIENCE} logged steps in a row (1 where embeddings are spread evenly, 0 where all images "
        f"have the same); effective rank {measures['effective_rank']:.1f}. What helps: no gradient through the target, "
        f"by stop(...) or an ema branch; a lower lr; a constant lr for the predictor; BatchNorm in the projector; "
        f"lighter views, or heavy views that only move towards light ones"
    )


def _teacher_message(measures: Mapping[str, float], step: int, name: str) -> str:
    """DINO's collapse, of two kinds: one answer that is sure, and one that is not."""
    entropy, where = measures[f"{name}.entropy"], f"relations.{name}"
    if entropy > 1 - ALIKE:
        kind = "all columns are alike"
        cures = (
            f"a sharper teacher, {where}.teacher_temperature=0.04 and {where}.warmup=0; a slower centre, momentum=0.95"
        )
    else:
        kind = "a few columns have won" if entropy > ALIKE else "one column has won"
        cures = f"a faster centre, {where}.momentum=0.8; a softer teacher, {where}.teacher_temperature=0.06"
    told, kl = measures[f"{name}{TOLD}"], measures[f"{name}.kl"]
    return (
        f"{name}: the teacher answers all images alike, {kind}: told is {told:.3f} at step {step}, and was under "
        f"{ALIKE} at {PATIENCE} logged steps in a row (0 where all images have one answer); its entropy is "
        f"{entropy:.3f} of what it can be, kl from the student {kl:.3f}. What helps: {cures}; on small data fewer "
        f"columns of the head (4,096 or less); a lower lr or a longer warm-up; freeze= of the head for an epoch; "
        f"train.clip; a teacher that follows more slowly, momentum=0.999; larger batches"
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
