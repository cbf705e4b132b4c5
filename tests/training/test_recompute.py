"""Activations that are computed again: the same values, gradients and statistics, from less memory."""

import copy

import pytest
import torch

from commands import manyview, one_line
from manyview import parse_recipe
from manyview.branches.blocks import blocks_of
from manyview.branches.branch import make_backbone
from manyview.errors import RecipeError
from manyview.foundation.grammar import parse_call
from manyview.optimize.optimize import make_optimizer
from manyview.selftest.cases import CASES, Case
from manyview.step import Step
from manyview.training.recompute import recompute, save_memory

RECIPE = """
views: {a: {from: image, make: "pad_crop(16, padding=2)"}}
branches: {net: {backbone: "%s", normalize: half}}
relations: [cross_entropy(logits(a))]
train: {epochs: 1}
"""
VIT = "vit_tiny_patch16_224(img_size=16, patch_size=8, depth=3, embed_dim=32, num_heads=2, proj_drop_rate=0.2)"


def step_of(backbone, *changes):
    return Step(parse_recipe(RECIPE % backbone, *changes), 5)


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


@pytest.mark.parametrize("name", CASES)
def test_pieces_of_a_batch_are_the_whole_batch(name):
    """A batch that is not accumulated: losses see all its rows, and networks 3 images at a time."""
    found = []
    for most in (None, 3):
        step = Case(name).step()
        for branch in step.branches.values():
            branch.most = most
        optimizer = make_optimizer(step.recipe.train, step)
        step.attach(optimizer)
        for number in range(2):
            out = step(Case(name).batch(number, 8, slice(None)))
            optimizer.zero_grad()
            out["loss"].backward()
            optimizer.step()
        grads = {key: each.grad for key, each in step.named_parameters() if each.grad is not None}
        found.append((out["terms"], grads, step.state_dict()))
    for whole, pieces in zip(*found, strict=True):
        assert whole.keys() == pieces.keys()
        largest = max(float(value.detach().abs().max()) for value in whole.values())
        for key, value in whole.items():  # to the rounding of float32, of sums in another order
            torch.testing.assert_close(pieces[key], value, rtol=0, atol=2e-5 * largest)


def test_pieces_hold_one_piece_and_draw_alike_twice():
    plain = step_of(VIT)
    again = step_of(VIT, "train.micro_batch=2")
    save_memory(again)
    (_, _, held), (gradients, _, less) = learnt(plain), learnt(again)
    assert less < 0.2 * held
    torch.manual_seed(1)  # what is drawn is drawn piece by piece
    images = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    by_hand = step_of(VIT)
    views = by_hand.views(images, torch.arange(8) % 5, index=torch.arange(8), epoch=0)["a"]
    net = by_hand.branch("net")
    h = torch.cat([net._features(piece)["h"] for piece in views.images.split(2)])
    torch.nn.functional.cross_entropy(net.heads["logits"](h), torch.arange(8) % 5).backward()
    for name, each in by_hand.named_parameters():
        torch.testing.assert_close(gradients[name], each.grad, rtol=1e-5, atol=1e-7)


def test_pieces_whose_blocks_are_computed_again():
    calm = VIT.replace(", proj_drop_rate=0.2", "")
    plain, again = step_of(calm), step_of(calm, "train.micro_batch=2", "train.checkpointing=true")
    save_memory(again)
    wanted, found = learnt(plain)[0], learnt(again)[0]
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("backbone", "change", "told"),
    [
        ("test_resnet", "train.micro_batch=2", "train.micro_batch: branches.net.backbone.* looks at all images"),
        (VIT, "train.compile=true", "train.micro_batch: torch's compiler does not take it"),
        (VIT, "train.shard=true", "train.micro_batch: weights that are shared out do not take it"),
    ],
)
def test_pieces_are_refused_where_they_would_be_another_run(backbone, change, told):
    with pytest.raises(RecipeError, match=f"^{told}"):
        save_memory(step_of(backbone, "train.micro_batch=2", change))


def test_a_plan_refuses_what_training_would():
    for asked, told in (
        (["train.micro_batch=4"], "train.micro_batch: branches.net.backbone."),
        (["train.checkpointing=true", "train.compile=true"], "train.checkpointing: torch's compiler does not take it"),
    ):
        assert one_line(*manyview("plan", "quickstart", *asked)).startswith(told)


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
