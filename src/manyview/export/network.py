"""The network as one module, without normalisation: what TorchScript and ONNX are made of."""

from __future__ import annotations

import copy
from typing import final

import torch
from torch import Tensor, nn

from manyview.branches.branch import Branch
from manyview.export.outgoing import AGGREGATED, Outgoing
from manyview.relations.joint import aggregate
from manyview.views.ops.orbit import ORBITS, orbit


@final
class Network(nn.Module):
    """Normalised pixels [B, C, h, w] -> what a run answers, [B, n].

    Scores over an orbit (SLA+AG) are averaged inside: the members are made of the image, pass as one batch, and answer
    for it. Where normalising treats colours unlike, they change places before it.
    """

    def __init__(self, leaving: Outgoing) -> None:
        super().__init__()
        self.branch = _bare(leaving.branch)
        self.members, self.orbit = 1, ""
        if leaving.answer == AGGREGATED:
            self.head, view = next((head, view) for head, view in leaving.branch.orbits.items() if view.orbit)
            self.members, self.orbit = view.members, view.orbit or ""
        else:
            self.head = (leaving.step.classifier or leaving.answer) if leaving.classes else leaving.answer
            self.members = leaving.branch.members(self.head)
        mean, std = leaving.branch.mean, leaving.branch.std
        moves = bool(self.orbit) and len(ORBITS[self.orbit][1]) > 1
        self.unlike = moves and len({*zip(mean.flatten().tolist(), std.flatten().tolist(), strict=True)}) > 1
        self.register_buffer("mean", mean.clone(), persistent=False)
        self.register_buffer("std", std.clone(), persistent=False)
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Scores [B, classes], or features [B, dim]."""
        if not self.orbit:
            # SLA+SI: the image as it is, is member 0, whose joint scores are every m-th column
            return self.branch.read(images, [self.head])[self.head].float()[:, :: self.members]
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        images = images * std + mean if self.unlike else images
        rows = orbit(images, self.orbit).flatten(0, 1)
        rows = (rows - mean) / std if self.unlike else rows
        return aggregate(self.branch.read(rows, [self.head])[self.head].float(), self.members)


@torch.no_grad()
def _bare(branch: Branch) -> Branch:
    """A copy that takes pixels as normalised already."""
    own = copy.deepcopy(branch)
    own.mean.zero_()
    own.std.fill_(1)
    return own


__all__ = ["Network"]
