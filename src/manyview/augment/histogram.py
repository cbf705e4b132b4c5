"""Functions of grey levels, on uint8 [B, C, H, W]: posterize, autocontrast, equalize; and the 3x3 sharpness filter.

They follow torchvision's uint8 kernels, whose rounding is part of the definition.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keeps the highest `bits` [B] of the eight of each level."""
    mask = 256 - 2 ** (8 - bits.to(images.device).long())
    return images & mask.to(torch.uint8).view(-1, 1, 1, 1)


def autocontrast(images: Tensor) -> Tensor:
    """Stretches each channel so that its darkest level becomes 0 and its brightest 255; flat channels stay."""
    low, high = images.amin(dim=(2, 3), keepdim=True), images.amax(dim=(2, 3), keepdim=True)
    flat = low == high
    spread = torch.where(flat, 255, high - low).float() * (1 / 255)
    stretched = (images - low).float() / spread
    return torch.where(flat, images, stretched.clamp(0, 255).to(torch.uint8))


def equalize(images: Tensor) -> Tensor:
    """Spreads each channel's levels evenly over 0…255 by its cumulative histogram, with Pillow's integer arithmetic."""
    flat = images.flatten(2).long()
    counts = torch.zeros(*flat.shape[:2], 256, dtype=torch.long, device=images.device)
    counts.scatter_add_(2, flat, torch.ones_like(flat))
    brightest = flat.amax(dim=2, keepdim=True)
    step = (flat.shape[2] - counts.gather(2, brightest)) // 255
    safe = step.clamp_min(1)
    table = (counts.cumsum(dim=2) - counts + safe // 2) // safe
    equalized = table.clamp(0, 255).gather(2, flat)
    return torch.where(step == 0, flat, equalized).to(torch.uint8).view_as(images)


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Blends with a smoothed copy: 0 smooths, 1 keeps, 2 sharpens. factor: [B]. The outermost pixels stay."""
    if min(images.shape[-2:]) <= 2:
        return images
    levels = images.float()
    kernel = torch.tensor([[1, 1, 1], [1, 5, 1], [1, 1, 1]], dtype=torch.float32, device=images.device) / 13
    channels = images.shape[1]
    smooth = F.conv2d(levels, kernel.expand(channels, 1, 3, 3), groups=channels).round()
    inner = levels[..., 1:-1, 1:-1]
    ratio = (1 - factor).to(images.device, torch.float32).view(-1, 1, 1, 1)
    levels[..., 1:-1, 1:-1] = inner + ratio * (smooth - inner)
    return levels.clamp(0, 255).to(torch.uint8)
