"""The looks of an update at the parts of its batch: one, for most optimisers; with SAM two, at the same views."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from manyview.optimize.after_update import unwrapped
from manyview.optimize.sam import Sam


def _whole(output: Mapping[str, Any]) -> Tensor:
    return output["loss"]


@dataclass(frozen=True)
class Pass:
    """One look at all parts. looking: what it happens in. loss: of a step's output. then: what its gradients are for
    once they are those of all parts; None for those of the last look, which the optimiser's step takes.
    """

    looking: Callable[[], AbstractContextManager[None]] = nullcontext
    loss: Callable[[Mapping[str, Any]], Tensor] = _whole
    then: Callable[[], None] | None = None


def passes_of(optimizer: torch.optim.Optimizer) -> Sequence[Pass]:
    """The looks in order. Accelerate's wrapper may be given."""
    inner = unwrapped(optimizer)
    if not isinstance(inner, Sam):
        return (Pass(),)
    first = Pass(loss=inner.loss, then=inner.ascend)
    return (first, Pass(inner.second_look, inner.loss))


__all__ = ["Pass", "passes_of"]
