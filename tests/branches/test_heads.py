"""Heads: layers, widths and arguments as the docstrings say; pooled rows of a layer."""

import pytest
import torch
from torch import nn

from manyview.branches.heads import HEADS, linear, mlp, pooled, predictor, projector

SIZES = {"inputs": 6, "classes": 5}


def kinds(module):
    return [type(layer).__name__ for layer in module]


def shapes(module):
    return [(m.in_features, m.out_features, m.bias is not None) for m in module if isinstance(m, nn.Linear)]


@pytest.mark.parametrize(
    ("out", "members", "columns"), [(None, 1, 5), (None, 4, 20), (7, 1, 7)], ids=["classes", "class x member", "given"]
)
def test_linear(out, members, columns):
    module, width = linear(out, members=members, **SIZES)
    assert (module.in_features, module.out_features, width) == (6, columns, columns)
    assert module.bias is not None


def test_linear_columns_are_given_once():
    with pytest.raises(ValueError, match="orbit= fixes the number of columns; drop the other one"):
        linear(3, members=4, **SIZES)


def test_mlp_is_linear_and_relu_with_biases():
    module, width = mlp(8, layers=3, **SIZES)
    assert kinds(module) == ["Linear", "ReLU", "Linear", "ReLU", "Linear"]
    assert shapes(module) == [(6, 8, True), (8, 8, True), (8, 5, True)]
    assert width == 5
    assert mlp(8, 3, **SIZES)[1] == 3
    assert kinds(mlp(8, layers=1, **SIZES)[0]) == ["Linear"]


def test_projector_ends_in_batch_norm_without_affine_and_has_no_bias_before_any_batch_norm():
    module, width = projector(4, 8, layers=3, **SIZES)
    assert kinds(module) == ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d"]
    assert shapes(module) == [(6, 8, False), (8, 8, False), (8, 4, False)]
    assert [m.affine for m in module if isinstance(m, nn.BatchNorm1d)] == [True, True, False]
    assert width == 4
    assert shapes(projector(4, **SIZES)[0]) == [(6, 4, False), (4, 4, False)]  # hidden: as wide as the output
    assert kinds(projector(4, layers=1, **SIZES)[0]) == ["Linear", "BatchNorm1d"]
    rows = module(torch.randn(32, 6))
    torch.testing.assert_close(rows.mean(dim=0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(rows.var(dim=0, correction=0), torch.ones(4), atol=1e-2, rtol=0)


def test_projector_whose_last_batch_norm_has_an_affine():
    """AugSelf's SimSiam, and DSSL's on ImageNet."""
    module, width = projector(4, 8, affine=True, **SIZES)
    assert [m.affine for m in module if isinstance(m, nn.BatchNorm1d)] == [True, True]
    assert shapes(module) == [(6, 8, False), (8, 4, False)]
    assert module[-1].weight.shape == (width,)
    with pytest.raises(ValueError, match="affine=True is for the last BatchNorm, which norm_last=False drops"):
        projector(4, affine=True, norm_last=False, **SIZES)


@pytest.mark.parametrize("name", ["affine", "norm_last"])
def test_switches_of_the_projector_are_true_or_false(name):
    with pytest.raises(ValueError, match=f"^{name} must be True or False, got 'yes'$"):
        projector(4, **{name: "yes"}, **SIZES)


def test_projector_without_the_last_batch_norm():
    module, _ = projector(4, 8, norm_last=False, **SIZES)
    assert kinds(module) == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert shapes(module) == [(6, 8, False), (8, 4, True)]


def test_predictor_gives_the_width_it_reads():
    module, width = predictor(3, **SIZES)
    assert kinds(module) == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert shapes(module) == [(6, 3, False), (3, 6, True)]
    assert width == 6
    assert predictor(3, 2, **SIZES)[1] == 2


@pytest.mark.parametrize("name", HEADS)
def test_the_width_told_is_the_width_given(name):
    module, width = HEADS[name](9, **SIZES)
    assert module(torch.randn(4, 6)).shape == (4, width)


@pytest.mark.parametrize("value", [0, -1, 2.0, True, "8"])
@pytest.mark.parametrize("name", HEADS)
def test_widths_are_positive_whole_numbers(name, value):
    with pytest.raises(ValueError, match="must be a whole number of at least 1, got"):
        HEADS[name](value, **SIZES)


@pytest.mark.parametrize("layers", [0, -1, 2.0, True])
@pytest.mark.parametrize("name", ["mlp", "predictor", "projector"])
def test_layers_are_positive_whole_numbers(name, layers):
    with pytest.raises(ValueError, match=f"layers must be a whole number of at least 1, got {layers}"):
        HEADS[name](8, layers=layers, **SIZES)


def test_pooled_averages_places_and_leaves_rows_alone():
    maps = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(pooled(maps), torch.stack([m.flatten(1).sum(1) / 20 for m in maps]))
    tokens = torch.randn(2, 7, 3)
    torch.testing.assert_close(pooled(tokens), torch.stack([t.sum(0) / 7 for t in tokens]))
    rows = torch.randn(2, 3)
    assert pooled(rows) is rows
