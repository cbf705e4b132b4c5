"""Modes of a module's parts are put back, whatever happened in between."""

import contextlib

import pytest
from torch import nn

from manyview.foundation.modes import evaluating


@pytest.mark.parametrize("training", [True, False])
def test_each_part_is_afterwards_in_the_mode_that_it_had(training):
    module = nn.Sequential(nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2)), nn.Linear(2, 2)).train(training)
    module[0][1].train(not training)
    before = [part.training for part in module.modules()]
    with contextlib.suppress(KeyboardInterrupt), evaluating(module):
        assert not any(part.training for part in module.modules())
        raise KeyboardInterrupt
    assert [part.training for part in module.modules()] == before
