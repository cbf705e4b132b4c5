"""A second look at a batch, of which nothing remains but its gradients.

What a network keeps of a batch, it keeps of the first look: running statistics of BatchNorm, in backbones, heads and
teachers; what a relation notes in buffers, or in attributes for its `after_step`, such as a queue's new keys.
"""

from __future__ import annotations

import copy
import operator
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

_HOLDERS = (list, dict, set, deque)  # what a forward pass may put something into
_MODULES = frozenset(vars(nn.Module()))  # attributes that torch keeps, parameters and buffers among them


@contextmanager
def looking_again(module: nn.Module) -> Iterator[None]:
    """Inside, batches are looked at once more: buffers, and attributes of the module's parts, are after it as before.

    Parameters, gradients and modes are left alone, and so are the attributes of the module itself.
    """
    parts = [*module.modules()]
    buffers = [
        (part, name, buffer, buffer.clone())
        for part in parts
        for name, buffer in part._buffers.items()
        if buffer is not None and not is_lazy(buffer) and not _is_expanded(buffer)
    ]
    noted = [(part, _noted(part)) for part in parts if part is not module]
    try:
        yield
    finally:
        with torch.no_grad():
            for part, name, buffer, before in buffers:
                part._buffers[name] = buffer
                buffer.copy_(before)  # without a look at it, for which a device would have to wait
        for part, kept in noted:
            _put_back(part, kept)


def _is_expanded(buffer: Tensor) -> bool:
    """Whether numbers of it share a place in memory: torch writes into no such tensor."""
    return any(stride == 0 and size > 1 for stride, size in zip(buffer.stride(), buffer.shape, strict=True))


def _noted(part: nn.Module) -> dict[str, Any]:
    own = {name: value for name, value in vars(part).items() if name not in _MODULES}
    return {name: copy.copy(value) if type(value) in _HOLDERS else value for name, value in own.items()}


def _put_back(part: nn.Module, kept: dict[str, Any]) -> None:
    now = {name: value for name, value in vars(part).items() if name not in _MODULES}
    for name in now.keys() - kept.keys():
        delattr(part, name)
    for name, before in kept.items():
        if name not in now or not _same(now[name], before):
            setattr(part, name, before)


def _same(now: Any, before: Any) -> bool:
    """Whether nothing was put in or taken out; what is held is known by identity, since tensors have no plain ==."""
    if now is before or type(now) is not type(before) or type(before) not in _HOLDERS:
        return now is before
    if len(now) != len(before):
        return False
    if isinstance(before, dict):
        return all(key in now and now[key] is value for key, value in before.items())
    return now == before if isinstance(before, set) else all(map(operator.is_, now, before))


__all__ = ["looking_again"]
