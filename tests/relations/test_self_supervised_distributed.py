"""Two processes with half of the batch each = one process with all of it, for the losses of learning without labels.

A loss that looks at the whole batch is given gathered rows; a mean over rows is not.
"""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from manyview import functional as F
from manyview.foundation.distributed import gather
from processes import on_two

pytestmark = pytest.mark.slow(reason="two processes")
WORLD, B, D = 2, 8, 5
WHOLE_BATCH = {
    "nt_xent": lambda z1, z2, labels: F.nt_xent(gather(z1), gather(z2), 0.2),
    "nt_xent-chunk": lambda z1, z2, labels: F.nt_xent(gather(z1), gather(z2), 0.2, chunk=3),
    "supervised_contrastive": lambda z1, z2, labels: F.supervised_contrastive(gather(z1), gather(labels), 0.1),
    "swav": lambda z1, z2, labels: F.swav(gather(z1), gather(z2), 0.1, 0.05, 3),
    "vicreg": lambda z1, z2, labels: F.vicreg(gather(z1), gather(z2)),
    "barlow_twins": lambda z1, z2, labels: F.barlow_twins(gather(z1), gather(z2)),
    "sigreg": lambda z1, z2, labels: F.sigreg(gather(z1), torch.eye(D, dtype=z1.dtype)),
}
MEANS_OVER_ROWS = {
    "negative_cosine": lambda z1, z2, labels: F.negative_cosine(z1, z2),
    "info_nce": lambda z1, z2, labels: F.info_nce(z1, z2, queue(), 0.2),
    "pseudo_label": lambda z1, z2, labels: F.pseudo_label(z1, z2, 0.3),
    "dino": lambda z1, z2, labels: F.dino(z1, z2, z1.new_zeros(D)),
    "spread": lambda z1, z2, labels: F.spread(torch.stack([z1, z2])),
}
CASES = WHOLE_BATCH | MEANS_OVER_ROWS


class Net(nn.Module):
    """A loss over the projections of two views by one matrix."""

    def __init__(self, case):
        super().__init__()
        self.case = case
        self.projection = nn.Parameter(torch.randn(6, D, dtype=torch.float64, generator=seeded(1)) / 2)

    def forward(self, x1, x2, labels):
        return CASES[self.case](x1 @ self.projection, x2 @ self.projection, labels)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def queue():
    return torch.randn(7, D, dtype=torch.float64, generator=seeded(2))


def batch(rows=slice(None)):
    x = torch.randn(2, B, 6, dtype=torch.float64, generator=seeded(0))
    return x[0, rows], x[1, rows], (torch.arange(B) % 3)[rows]


def measured(module, rows=slice(None)):
    """(loss, gradient of the projection)."""
    loss = module(*batch(rows))
    loss.backward()
    return loss.detach(), next(module.parameters()).grad


def codes(rows=slice(None)):
    """The codes of some rows, by the scores of all processes."""
    own = batch(rows)[0]
    everyone = F.sinkhorn(gather(own), 0.5, 3)
    rank = dist.get_rank() if dist.is_initialized() else 0
    return everyone[rank * len(own) : (rank + 1) * len(own)]


def worker(rank, folder):
    dist.init_process_group("gloo")
    rows = slice(rank * B // WORLD, (rank + 1) * B // WORLD)
    found = {case: measured(DistributedDataParallel(Net(case)), rows) for case in CASES}
    found["codes"] = codes(rows)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What each of two processes found, for all cases."""
    folder = tmp_path_factory.mktemp("two")
    on_two(worker, str(folder))
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradient_are_those_of_the_joined_batch(two, case):
    loss, gradient = measured(Net(case))
    assert gradient.abs().max() > 1e-3
    mean = sum(process[case][0] for process in two) / WORLD
    torch.testing.assert_close(mean, loss, rtol=1e-10, atol=0)
    for process in two:
        if case in WHOLE_BATCH:
            torch.testing.assert_close(process[case][0], loss, rtol=1e-10, atol=0)
        torch.testing.assert_close(process[case][1], gradient, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("case", WHOLE_BATCH)
def test_the_comparison_can_tell(case):
    """Without a gather these losses and gradients would be the means of two halves, which are others."""
    loss, gradient = measured(Net(case))
    halves = [measured(Net(case), rows) for rows in (slice(0, B // 2), slice(B // 2, B))]
    assert abs(sum(half[0] for half in halves) / 2 - loss) > 1e-3 * abs(loss)
    assert (sum(half[1] for half in halves) / 2 - gradient).abs().max() > 1e-3 * gradient.abs().max()


def test_codes_are_those_of_the_joined_batch(two):
    whole = codes()
    torch.testing.assert_close(torch.cat([process["codes"] for process in two]), whole, rtol=1e-10, atol=0)
    assert (codes(slice(0, B // 2)) - whole[: B // 2]).abs().max() > 1e-2  # of a half alone they are others
