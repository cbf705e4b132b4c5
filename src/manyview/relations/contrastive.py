"""Contrastive losses: SimCLR's NT-Xent, MoCo's InfoNCE with a queue, and the supervised contrastive loss.

With unit vectors z and logits s_ij = <z_i, z_j> / T, each is cross-entropy of "which of the others is mine":

    l_i = log sum_{j != i} exp s_ij  -  mean over positives p of i of s_ip

- NT-Xent (Chen et al., ICML 2020, eq. 1): 2B rows, the one positive of a row is the other view of its image; mean over
  the 2B rows. SimCLR's T is 0.5 at CIFAR scale and 0.1 on ImageNet; AugSelf's runs use 0.2.
- InfoNCE (He et al., CVPR 2020, eq. 1): the positive of a query is its key, the negatives are a queue of older keys.
  Cross-entropy over 1 + K logits. T is 0.07 in MoCo and 0.2 in MoCo v2; K = 65,536. Keys and queue are constants.
- Supervised contrastive (Khosla et al., NeurIPS 2020, eq. 2, L_out: the mean over positives stands outside the
  logarithm): the positives of a row are all other rows of its class, T = 0.1. The paper sums over rows and the official
  code takes the mean: so do we. The official code also multiplies by T / 0.07, which we leave out. A row without
  positives has no loss; it counts in the mean as 0 (the first official code gave NaN).

The gradient of log-sum-exp needs the logits again, N x N for N rows. With `chunk` they are made for so many rows at a
time, and made again in the backward pass: memory grows with chunk * N, at the price of one more matrix product.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from manyview.errors import BatchError
from manyview.foundation.distributed import gather
from manyview.relations.precision import check_temperature, in_float32
from manyview.relations.reading import (
    Port,
    Reading,
    check_alike,
    check_labels,
    check_one_label,
    check_single,
    same_shape,
)
from manyview.views.ops.op import ROWS, check_whole


@in_float32
def nt_xent(z1: Tensor, z2: Tensor, temperature: float, chunk: int | None = None) -> Tensor:
    """SimCLR's loss of two views, a scalar: the mean over 2B rows of cross-entropy among the 2B - 1 other rows.

    z1, z2: [B, D], row i of both the same image; normalised here. chunk: how many of the 2B rows of logits [2B, 2B]
    to hold at a time; None: all. The value is the same, and 16,384 x 128 needs less than 1 GB with chunk=1024.
    On several processes give the gathered rows of all of them.
    Raises ValueError for unlike shapes, a single image, temperature <= 0 or chunk < 1.
    """
    same_shape(z1, z2)
    check_temperature(temperature)
    if len(z1) < 2:
        raise ValueError(f"nt_xent contrasts at least two images, got {len(z1)}")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")
    z1, z2 = F.normalize(z1, dim=1), F.normalize(z2, dim=1)
    positives = (z1 * z2).sum(dim=1) / temperature
    return _log_sum_others(torch.cat([z1, z2]), temperature, chunk).mean() - positives.mean()


def _log_sum_others(z: Tensor, temperature: float, chunk: int | None = None) -> Tensor:
    """log sum_{j != i} exp(<z_i, z_j> / T), [N], of unit rows z [N, D]."""
    if chunk is None:
        return _log_sum_others_of(z, z, 0, temperature)
    parts = [
        checkpoint(
            _log_sum_others_of,
            z[start : start + chunk],
            z,
            start,
            temperature,
            use_reentrant=False,
            preserve_rng_state=False,
        )
        for start in range(0, len(z), chunk)
    ]
    return torch.cat(parts)


def _log_sum_others_of(rows: Tensor, z: Tensor, start: int, temperature: float) -> Tensor:
    """The same for the rows that begin at `start`, [n]."""
    logits = (rows / temperature) @ z.T
    logits.diagonal(start).fill_(-torch.inf)
    return logits.logsumexp(dim=1)


@in_float32
def info_nce(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """MoCo's loss, a scalar: mean over rows of cross-entropy of the own key among itself and the queue's keys.

    q: queries [B, D]. k: their keys [B, D]. queue: keys of other images [K, D]. All are normalised here; keys and queue
    get no gradient. A mean over rows: processes with the same queue need no gather, but for the keys that enter it.
    Raises ValueError for shapes that disagree, an empty queue or temperature <= 0.
    """
    same_shape(q, k)
    check_temperature(temperature)
    if queue.ndim != 2 or queue.shape[1] != q.shape[1] or not len(queue):
        raise ValueError(f"expected a queue [K, {q.shape[1]}] of at least one key, got {tuple(queue.shape)}")
    q, k, queue = F.normalize(q, dim=1), F.normalize(k.detach(), dim=1), F.normalize(queue.detach(), dim=1)
    positives = (q * k).sum(dim=1, keepdim=True)
    logits = torch.cat([positives, q @ queue.T], dim=1) / temperature
    return F.cross_entropy(logits, logits.new_zeros(len(q), dtype=torch.long))


@in_float32
def supervised_contrastive(z: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """The supervised contrastive loss L_out, a scalar: the mean over rows; see above for rows without positives.

    z: [N, D], normalised here; views are rows: `torch.cat([z1, z2])` with `labels.repeat(2)`. labels: integers [N].
    Holds logits [N, N]. On several processes give the gathered rows and labels of all of them.
    Raises ValueError for shapes that disagree, fewer than two rows or temperature <= 0.
    """
    if z.ndim != 2 or labels.shape != z.shape[:1]:
        raise ValueError(f"expected rows [N, D] with labels [N], got {tuple(z.shape)} and {tuple(labels.shape)}")
    check_temperature(temperature)
    if len(z) < 2:
        raise ValueError(f"supervised_contrastive contrasts at least two rows, got {len(z)}")
    z = F.normalize(z, dim=1)
    alike = labels[:, None] == labels
    alike.fill_diagonal_(False)
    count = alike.sum(dim=1)
    # the mean over positives of <z_i, z_p> is <z_i, mean of z_p>
    positives = (z * (alike.to(z.dtype) @ z)).sum(dim=1) / count.clamp_min(1) / temperature
    return ((_log_sum_others(z, temperature) - positives) * (count > 0)).mean()


class NtXent(nn.Module):
    """`nt_xent(z(a), z(b), temperature=0.2)`: SimCLR's loss, over the images of all processes.

    chunk: rows of logits held at a time, for large batches; see `functional.nt_xent`.
    """

    symmetric = True
    whole_batch = True

    def __init__(self, a: Port, b: Port, *, temperature: float = 0.2, chunk: int | None = None) -> None:
        super().__init__()
        check_temperature(temperature)
        if chunk is not None:
            check_whole("chunk", chunk)
        check_alike(a, b)
        check_single(a, b)
        self.temperature, self.chunk = temperature, chunk

    def forward(self, a: Reading, b: Reading) -> Tensor:
        return nt_xent(gather(a.value), gather(b.value), self.temperature, self.chunk)


class InfoNce(nn.Module):
    """`info_nce(z(a), toward=teacher.z(b), queue=65536, temperature=0.2)`: MoCo's loss; owns the queue.

    queue: how many keys of earlier images are the negatives, [queue, dim], at first random directions (as in the
    official code). After an update the keys of its batch, of all processes, take the place of the oldest; where they
    do not fill the rest of the queue evenly they wrap around, and of more than it holds the last remain.
    The official AugSelf code puts the queries into the queue; the paper, and we, the keys. MoCo shuffles the rows
    among processes before the teacher's BatchNorm sees them; here `train.sync_batchnorm` keeps it from telling.
    The queue is a buffer, which DistributedDataParallel sends round at every forward: 33 MB for 65,536 x 128.
    """

    def __init__(self, query: Port, *, toward: Port, queue: int = 65536, temperature: float = 0.2) -> None:
        super().__init__()
        check_whole("queue", queue, most=ROWS)
        check_temperature(temperature)
        check_alike(query, toward)
        check_single(query, toward)
        self.temperature = temperature
        self.register_buffer("queue", F.normalize(torch.randn(queue, query.dim), dim=1))
        self.register_buffer("oldest", torch.zeros((), dtype=torch.long))
        self.queue: Tensor
        self.oldest: Tensor
        self._keys: list[Tensor] = []  # of the update under way

    def forward(self, query: Reading, *, toward: Reading) -> Tensor:
        if self.training and torch.is_grad_enabled():  # else no update follows
            self._keys.append(gather(F.normalize(toward.value.detach().float(), dim=1)))
        return info_nce(query.value, toward.value, self.queue, self.temperature)

    @torch.no_grad()
    def after_step(self) -> None:
        """Puts the keys of the update into the queue."""
        if not self._keys:
            return
        size = len(self.queue)
        keys = torch.cat(self._keys)[-size:]
        places = (self.oldest + torch.arange(len(keys), device=keys.device)) % size
        self.queue[places] = keys.to(self.queue.dtype)
        self.oldest.copy_((self.oldest + len(keys)) % size)
        self._keys = []


class SupervisedContrastive(nn.Module):
    """`supervised_contrastive(z(a), z(b), temperature=0.1)`, over the rows of all views and processes."""

    symmetric = True
    whole_batch = True
    learns_from_labels = True

    def __init__(self, *views: Port, temperature: float = 0.1) -> None:
        super().__init__()
        if not views:
            raise ValueError("supervised_contrastive reads at least one view, as in supervised_contrastive(z(a), z(b))")
        check_temperature(temperature)
        check_one_label("supervised_contrastive", *views)
        for view in views[1:]:
            check_alike(replace(views[0], members=view.members), view)
        self.temperature, self.classes = temperature, views[0].classes

    def forward(self, *views: Reading) -> Tensor:
        targets = [view.target for view in views if view.target is not None and view.target.ndim == 1]
        if len(targets) < len(views):
            raise BatchError("supervised_contrastive needs one label a row; pass labels, and mix none of its views")
        labels = gather(torch.cat(targets))
        check_labels(labels, self.classes)
        return supervised_contrastive(gather(torch.cat([view.value for view in views])), labels, self.temperature)
