"""torch's autocast, also where tensors are only shapes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def autocast(device_type: str, enabled: bool) -> AbstractContextManager[object]:
    """bfloat16 on devices of this kind, or not; on `meta`, which autocast does not know, never."""
    if device_type == "meta":
        return nullcontext()
    return torch.autocast(device_type, torch.bfloat16, enabled=enabled)


__all__ = ["autocast"]
