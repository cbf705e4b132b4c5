"""Activations that are computed again: the same values, gradients and statistics, from less memory."""

import copy

import pytest
import torch

from manyview import parse_recipe
from manyview.branches.blocks import blocks_of
from manyview.branches.branch import make_backbone
from manyview.errors import RecipeError
from manyview.foundation.grammar import parse_call
from manyview.step import Step
from manyview.training.recompute import recompute

RECIPE = """
views: {a: {from: image, make: "pad_crop(16, padding=2)"}}
branches: {net: {backbone: "%s", normalize: half}}
relations: [cross_entropy(logits(a))]
train: {epochs: 1}
"""
VIT = "vit_tiny_patch16_224(img_size=16, patch_size=8, depth=3, embed_dim=32, num_heads=2, proj_drop_rate=0.2)"


def step_of(backbone):
    return Step(parse_recipe(RECIPE % backbone), 5)


def learnt(step):
    """The gradients of a batch, the state after it, and bytes that the forward pass kept for the backward pass."""
    images = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    kept = []

    def pack(tensor):
        kept.append(tensor.untyped_storage())
        return tensor

    torch.manual_seed(1)  # of dropout
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = step(images, torch.arange(8) % 5, index=torch.arange(8), epoch=0)["loss"]
    held = sum({storage.data_ptr(): storage.nbytes() for storage in kept}.values())
    loss.backward()
    return {name: each.grad for name, each in step.named_parameters()}, step.state_dict(), held


@pytest.mark.parametrize(("backbone", "smaller"), [(VIT, 0.7), ("resnet18(small=True)", 0.9)], ids=["vit", "resnet"])
def test_values_and_statistics_are_those_of_the_first_time(backbone, smaller):
    plain, again = step_of(backbone), step_of(backbone)
    recompute(again)
    (gradients, state, held), (found, after, less) = learnt(plain), learnt(again)
    assert gradients.keys() == found.keys()
    for name, value in gradients.items():
        assert torch.equal(found[name], value), name
    for name, value in state.items():
        assert torch.equal(after[name], value), name
    assert less < smaller * held


def test_a_copy_computes_by_its_own_weights():
    step = step_of(VIT)
    recompute(step)
    other = copy.deepcopy(step)
    with torch.no_grad():
        for each in other.parameters():
            each.zero_()
    assert not bool(other.eval().predict(torch.ones(2, 3, 16, 16))["h"].any())


def test_a_network_without_blocks_is_refused():
    with pytest.raises(
        RecipeError, match=r"^train.checkpointing: branches.net: regnety_002.* is no sequence of blocks"
    ):
        recompute(step_of("regnety_002"))


@pytest.mark.parametrize(
    ("name", "count", "kind"),
    [
        ("resnet18", 8, {"BasicBlock"}),
        ("test_vit", 6, {"Block"}),
        ("convnext_atto", 12, {"ConvNeXtBlock"}),
        ("efficientnet_b0", 16, {"DepthwiseSeparableConv", "InvertedResidual"}),
        ("densenet121", 58, {"DenseLayer"}),
    ],
)
def test_blocks_are_what_a_network_repeats(name, count, kind):
    with torch.device("meta"):
        found = blocks_of(make_backbone(parse_call(name, "backbone"), "backbone", pretrained=False))
    assert len(found) == count
    assert {type(block).__name__ for block in found} == kind
