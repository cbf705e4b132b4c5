"""Check: two relations' losses and gradients on the device are those of float64 on the CPU."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor

import manyview
from gpu.bench import CLASSES, Bench, Row
from manyview.step import Step
from manyview.views.view import View
from op_cases import photos

RECIPES = {"tied_cifar10": "cross_entropy, similarity", "simsiam_cifar10": "cosine"}
# ReLU has kinks over which rounding moves activations; GELU has none
BACKBONE = "vit_tiny_patch16_224(img_size=32, patch_size=8, depth=2, embed_dim=48, num_heads=2)"
LOSS, GRADIENT = 1e-5, 1e-3
COUNT = 16


def same_gradients(bench: Bench) -> Iterator[Row]:
    """A row a recipe: the loss's difference, and the norm of the gradients' difference over their norm."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    for name, relations in RECIPES.items():
        branch = next(iter(manyview.load_recipe(name).branch_plan))
        recipe = manyview.load_recipe(name, f"branches.{branch}.backbone={BACKBONE}")
        step = Step(recipe, CLASSES, total_steps=100).train()
        step.updates = 50  # so that weights that warm up have some
        labels = torch.arange(COUNT) % CLASSES
        views = step.views(photos(COUNT, (32, 32)), labels, range(COUNT), 0, only=step.rendered_views)
        exact = copy.deepcopy(step)
        exact.branches.double()  # relations keep float32, as they do everywhere
        expected, reference = learnt(exact, views, labels)
        there = {each: view.moved(lambda tensor: tensor.to(bench.device)) for each, view in views.items()}
        loss, ours = learnt(step.to(bench.device), there, labels.to(bench.device))
        squares = [
            sum(float(part.square().sum()) for part in parts)
            for parts in zip(*((ours[key] - value, value) for key, value in reference.items()), strict=True)
        ]
        of_loss, of_gradient = abs(loss - expected) / max(1.0, abs(expected)), (squares[0] / squares[1]) ** 0.5
        yield {
            "what": f"{name}: {relations}",
            "loss_apart": of_loss,
            "gradient_apart": of_gradient,
            "right": of_loss <= LOSS and of_gradient <= GRADIENT and ours.keys() == reference.keys(),
        }


def learnt(step: Step, views: dict[str, View], labels: Tensor) -> tuple[float, dict[str, Tensor]]:
    """(loss, gradients in float64 on the CPU)."""
    loss = step(views, labels)["loss"]
    loss.backward()
    found = {name: each.grad.double().cpu() for name, each in step.named_parameters() if each.grad is not None}
    return float(loss.detach()), found
