"""Orbits: the fixed families of views that SLA labels jointly (Lee, Hwang, Shin, ICML 2020, section 3).

A member is a rotation by k quarter turns followed by a permutation of the colour channels. Rotation is outermost in
the combined orbits. Member 0 is always the untransformed image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from manyview.errors import unknown

_COLORS6 = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
_COLORS3 = ((0, 1, 2), (1, 2, 0), (2, 0, 1))
_NONE = ((0, 1, 2),)

# name -> (quarter turns, colour permutations)
ORBITS: dict[str, tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]] = {
    "rotation": ((0, 1, 2, 3), _NONE),
    "rotation2": ((0, 2), _NONE),
    "color_perm": ((0,), _COLORS6),
    "color_perm3": ((0,), _COLORS3),
    "rot_color_perm6": ((0, 2), _COLORS3),
    "rot_color_perm12": ((0, 1, 2, 3), _COLORS3),
    "rot_color_perm24": ((0, 1, 2, 3), _COLORS6),
}


def orbit_size(name: str) -> int:
    """m, the number of members. Raises ValueError for an unknown orbit."""
    turns, colors = _lookup(name)
    return len(turns) * len(colors)


def orbit(images: Tensor, name: str) -> Tensor:
    """All members of the orbit of each image: [B, C, H, W] -> [B, m, C, H, W], of the same dtype.

    Turns are anticlockwise, `rot90` with k = 0…3; permutation p makes output channel j from input channel p[j].
    Raises ValueError for an unknown orbit, quarter turns of images that are not square, and permutations of images
    that do not have three channels.
    """
    turns, colors = _lookup(name)
    channels, height, width = images.shape[-3:]
    if height != width and any(turn % 2 for turn in turns):
        raise ValueError(f"orbit '{name}' turns by 90 degrees and needs square images, got {height}x{width}")
    if colors != _NONE and channels != 3:
        raise ValueError(f"orbit '{name}' permutes RGB and needs 3 channels, got {channels}")
    members = []
    for turn in turns:
        turned = images.rot90(turn, dims=(-2, -1))
        members += [turned if p == (0, 1, 2) else turned[:, list(p)] for p in colors]
    return torch.stack(members, dim=1)


def _lookup(name: str) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
    if name not in ORBITS:
        raise ValueError(unknown("orbit", name, ORBITS))
    return ORBITS[name]
