"""Activations that are computed again in the backward pass in the place of being kept, block by block, piece by piece.

torch's checkpoint does it, with the random numbers of the first time. What a block keeps of a batch, as BatchNorm its
running statistics, it keeps of the first time: the second works on copies of its buffers. Of pieces of a batch, see
`branches.rows.in_pieces`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from manyview.branches.blocks import blocks_of
from manyview.branches.branch import Branch
from manyview.errors import RecipeError
from manyview.step import Step

REFUSED = (
    ("checkpointing", "compile", "torch's compiler does"),
    ("micro_batch", "compile", "torch's compiler does"),
    ("micro_batch", "shard", "weights that are shared out do"),
)


def save_memory(step: Step) -> None:
    """What the step's recipe says of `checkpointing` and `micro_batch`. Raises RecipeError for what cannot be."""
    check_saving(step)
    if step.recipe.train.checkpointing:
        recompute(step)
    for name in step.branches:
        step.branch(name).most = step.recipe.train.micro_batch


def check_saving(step: Step) -> None:
    """Raises RecipeError where a step that is to be trained cannot save memory as its recipe says.

    torch's compiler cannot with what stands around the second time.
    """
    config = step.recipe.train
    for key, other, told in REFUSED:
        if getattr(config, key) and getattr(config, other):
            raise RecipeError(f"train.{key}: {told} not take it; leave out one, train.{other} or this")
    if config.checkpointing:
        _blocks(step)
    if config.micro_batch:
        for name in step.branches:
            _check_pieces(name, step.branch(name))


def _check_pieces(name: str, branch: Branch) -> None:
    for part, module in branch.backbone.named_modules() if branch.spec.frozen is None else ():
        if module.training and sees_others(module):
            raise RecipeError(
                f"train.micro_batch: branches.{name}.backbone.{part}, {type(module).__name__}, looks at all images "
                "of a batch together, so pieces would be trained otherwise; set train.checkpointing=true, take "
                "more processes, or a network without BatchNorm"
            )


def sees_others(module: nn.Module) -> bool:
    """Whether what a layer says of an image hangs on others of the batch: BatchNorm, and what keeps its statistics."""
    return isinstance(module, _BatchNorm) or any(name.startswith("running_") for name in module._buffers)


def recompute(step: Step) -> None:
    """Has each block of the backbones that learn compute its activations again. Raises RecipeError for one without."""
    for block in _blocks(step):
        block.forward = MethodType(_forward, block)  # a copy's is its own


def _blocks(step: Step) -> list[nn.Module]:
    found: list[nn.Module] = []
    for name in step.branches:
        branch = step.branch(name)
        blocks = blocks_of(branch.backbone) if branch.spec.learns else []
        if branch.spec.learns and not blocks:
            told = f"branches.{name}: {branch.spec.backbone} is no sequence of blocks; leave it out"
            raise RecipeError(f"train.checkpointing: {told}")
        found += blocks
    return found


def _forward(block: nn.Module, *args: Any, **kwargs: Any) -> Any:
    plain = MethodType(type(block).forward, block)
    if not torch.is_grad_enabled():
        return plain(*args, **kwargs)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _on_copies(block)

    return checkpoint(plain, *args, use_reentrant=False, context_fn=contexts, **kwargs)


@contextmanager
def _on_copies(block: nn.Module) -> Iterator[None]:
    """Inside, the block's buffers are copies, so that what it writes into them is lost."""
    kept = [(part, name, buffer) for part in block.modules() for name, buffer in part._buffers.items()]
    for part, name, buffer in kept:
        part._buffers[name] = None if buffer is None else buffer.clone()
    try:
        yield
    finally:
        for part, name, buffer in kept:
            part._buffers[name] = buffer
