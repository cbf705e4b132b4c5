"""BatchNorm over processes, taken back for a copy that one process trains by itself."""

import copy

import pytest
import torch
from timm.layers import convert_sync_batchnorm
from torch import nn

from manyview.optimize.sync_batchnorm import alone_again


@pytest.mark.parametrize(("norm", "shape"), [(nn.BatchNorm1d(3), (4, 3)), (nn.BatchNorm2d(3), (4, 3, 2, 2))])
def test_a_copy_looks_alone_whatever_its_norms_are_of(norm, shape):
    before, batch = copy.deepcopy(norm), torch.rand(shape)
    after = nn.Sequential(convert_sync_batchnorm(norm))
    alone_again(after)
    assert torch.equal(after.train()(batch), before.train()(batch))
    assert torch.equal(after[0].running_var, before.running_var)
