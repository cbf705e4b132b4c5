"""Affine resampling of a batch with a matrix an image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def warp(images: Tensor, matrices: Tensor, mode: str = "nearest") -> Tensor:
    """Resamples images by inverse affine maps; outside is black.

    images: float [B, C, H, W]. matrices: [B, 2, 3] from output to source (x, y), in pixels from the image's centre.
    The grid is laid as torchvision does, so that ties fall to the same side.
    """
    height, width = images.shape[-2:]
    matrices = matrices.to(images.device, images.dtype)
    x = torch.linspace((1 - width) / 2, (width - 1) / 2, width, device=images.device, dtype=images.dtype)
    y = torch.linspace((1 - height) / 2, (height - 1) / 2, height, device=images.device, dtype=images.dtype)
    base = torch.stack(
        [x.expand(height, width), y[:, None].expand(height, width), torch.ones_like(x).expand(height, width)], dim=-1
    )
    half = torch.tensor([width / 2, height / 2], device=images.device, dtype=images.dtype)
    theta = matrices.transpose(1, 2) / half
    grid = (base.view(1, -1, 3) @ theta).view(len(images), height, width, 2)
    return F.grid_sample(images, grid, mode=mode, padding_mode="zeros", align_corners=False)


def identity(count: int) -> Tensor:
    """The map that changes nothing, float64 [count, 2, 3]."""
    return torch.eye(2, 3, dtype=torch.float64).repeat(count, 1, 1)


def shear(amount: Tensor, axis: int, extent: int) -> Tensor:
    """Shears along x (axis 0) or y (axis 1) by `amount` [B] (the tangent), with the top or left edge held still.

    extent: the image's size in pixels along the other axis.
    """
    matrices = identity(len(amount))
    matrices[:, axis, 1 - axis] = amount
    matrices[:, axis, 2] = amount * extent / 2
    return matrices


def translate(pixels: Tensor, axis: int) -> Tensor:
    """Moves the content by `pixels` [B] along x (axis 0) or y (axis 1)."""
    matrices = identity(len(pixels))
    matrices[:, axis, 2] = -pixels
    return matrices


def rotate(degrees: Tensor) -> Tensor:
    """Turns the content anticlockwise by `degrees` [B] about the centre."""
    angle = degrees.double().deg2rad()
    matrices = identity(len(degrees))
    matrices[:, 0, 0] = matrices[:, 1, 1] = angle.cos()
    matrices[:, 0, 1], matrices[:, 1, 0] = -angle.sin(), angle.sin()
    return matrices
