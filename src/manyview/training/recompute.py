"""Activations that are computed again in the backward pass, block by block, in the place of being kept.

torch's checkpoint does it, with the random numbers of the first time. What a block keeps of a batch, as BatchNorm its
running statistics, it keeps of the first time: the second works on copies of its buffers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from manyview.branches.blocks import blocks_of
from manyview.errors import RecipeError
from manyview.step import Step


def recompute(step: Step, compiled: bool = False) -> None:
    """Has each block of the backbones that learn compute its activations again. Raises RecipeError for one without.

    compiled: whether the networks will be, which torch's compiler cannot with what stands around the second time.
    """
    if compiled:
        raise RecipeError(
            "train.checkpointing: torch's compiler does not take it; leave out one, train.compile or this"
        )
    for name in step.branches:
        branch = step.branch(name)
        if branch.spec.learns:
            blocks = blocks_of(branch.backbone)
            if not blocks:
                told = f"branches.{name}: {branch.spec.backbone} is no sequence of blocks; leave it out"
                raise RecipeError(f"train.checkpointing: {told}")
            for block in blocks:
                block.forward = MethodType(_forward, block)  # a copy's is its own


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
