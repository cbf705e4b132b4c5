"""What follows an update: called by the optimiser itself, so that no loop can forget it, or do it in another place.

The hook is torch's (`Optimizer.register_step_post_hook`): it runs at the end of every `step()`, and at no other time.
With gradients accumulated over several backward passes it runs once, and not at all where a scaler skips an update.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import torch
from torch.utils.hooks import RemovableHandle

from manyview.errors import ManyviewError


@final
class AfterUpdate:
    """Where something follows an optimiser's updates: at one optimiser, or, at first, nowhere.

    A copy (`copy.deepcopy`, pickle) is attached nowhere: the optimiser knows the original alone.
    """

    def __init__(self) -> None:
        self._handle: RemovableHandle | None = None

    def __reduce__(self) -> tuple[type[AfterUpdate], tuple[()]]:
        return AfterUpdate, ()

    @property
    def attached(self) -> bool:
        """Whether there is an optimiser that still calls; not after the handle's `remove()`, or once it is gone."""
        hooks = None if self._handle is None else self._handle.hooks_dict_ref()
        return hooks is not None and self._handle is not None and self._handle.id in hooks

    def attach(self, optimizer: torch.optim.Optimizer, follow: Callable[[], None]) -> RemovableHandle:
        """Calls `follow` behind every update from now on; the handle's `remove()` ends it.

        Raises ManyviewError if an optimiser calls already, and for one that calls no hooks.
        """
        if self.attached:
            raise ManyviewError(
                "attach: an optimiser is attached already; attach once, or first remove() what that gave"
            )
        inner = unwrapped(optimizer)
        if not getattr(getattr(type(inner), "step", None), "hooked", False):
            raise ManyviewError(
                f"attach: {type(inner).__name__} calls no hooks behind its updates; "
                "attach nothing, and call step.after_step() after each of them"
            )

        def hook(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
            if not _skipped(optimizer):
                follow()

        self._handle = inner.register_step_post_hook(hook)
        return self._handle


def _skipped(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a scaler had this step change nothing: fused optimisers are called all the same, with what it found."""
    found = getattr(optimizer, "found_inf", None)
    return isinstance(found, torch.Tensor) and bool(found.item())


def unwrapped(optimizer: Any) -> Any:
    """The optimiser inside accelerate's wrapper, whose own `step()` comes with every part of a batch."""
    while type(optimizer).__module__.startswith("accelerate."):
        optimizer = optimizer.optimizer
    return optimizer
