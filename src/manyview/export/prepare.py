"""An image's way into the network as part of the graph: grey levels resized, cut and normalised as the run does it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from manyview.errors import RunError
from manyview.export.network import Network
from manyview.export.outgoing import Outgoing
from manyview.export.resize import resized, sides_of
from manyview.views.ops.crop import CenterCrop, Resize, as_pair
from manyview.views.plan import TEST, PlannedView, usual_test_view
from manyview.views.view import draw_views

LAYOUTS = ("nchw", "nhwc")


@dataclass(frozen=True)
class Stage:
    """Images resized to `whole`, of which the central `part` is kept.

    whole: (height, width), or the length of the shorter side; None for the image's own size. part: (height, width).
    """

    whole: int | tuple[int, int] | None
    part: tuple[int, int]


@final
class Prepared(nn.Module):
    """uint8 images of any one size, [B, C, H, W] or [B, H, W, C] -> what a run answers, [B, n].

    Each stage ends in whole grey levels, as those of the renderer do.
    """

    def __init__(self, leaving: Outgoing, layout: str) -> None:
        super().__init__()
        self.stages = stages_of(view_of(leaving), leaving.sized())
        self.last = layout == "nhwc"
        self.network = Network(leaving)
        self.register_buffer("mean", leaving.branch.mean.clone())
        self.register_buffer("std", leaving.branch.std.clone())

    def forward(self, images: Tensor) -> Tensor:
        """Scores [B, classes], or features [B, dim]."""
        levels = (images.permute(0, 3, 1, 2) if self.last else images).float()
        for stage in self.stages:
            levels = _made(levels, stage)
        return self.network((levels / 255 - self.get_buffer("mean")) / self.get_buffer("std"))

    def example(self, channels: int) -> Tensor:
        """Images of a size that is nobody's own."""
        height, width = self.stages[-1].part
        return self.laid(torch.zeros(2, channels, 3 * height + 5, 3 * width + 11, dtype=torch.uint8))

    def laid(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] as they go in."""
        return images.permute(0, 2, 3, 1).contiguous() if self.last else images


def _made(levels: Tensor, stage: Stage) -> Tensor:
    sides = sides_of(levels)
    if stage.whole is None:
        for axis, kept in enumerate(stage.part):
            first = ((sides[axis] - kept) / 2).round()
            first = torch.where(sides[axis] < kept, sides[axis], first)  # too small: beyond it, which is an error
            levels = levels.index_select(axis + 2, first.long() + torch.arange(kept))
        return levels
    if isinstance(stage.whole, int):
        return resized(levels, (stage.whole * sides / sides.min()).floor(), stage.part)
    return resized(levels, sides.new_tensor(stage.whole), stage.part)


def view_of(leaving: Outgoing) -> PlannedView:
    """What evaluation looks at: the recipe's view, or what stands for it, or that of a size that was asked for."""
    own = leaving.step.test_plan
    return usual_test_view(leaving.sized()) if leaving.asked or not own else own[TEST]


def stages_of(view: PlannedView, size: tuple[int, int]) -> Sequence[Stage]:
    """What a view does; one that leaves shapes as they are is cut to `size`, see `cuts`. Raises RunError for more."""
    stages: list[Stage] = []
    ops = [planned.op for planned in view.ops]
    for at, op in enumerate(ops):
        after = ops[at + 1] if at + 1 < len(ops) else None
        if isinstance(op, Resize):
            whole = op.size if isinstance(op.size, int) else as_pair(op.size)
            if isinstance(after, CenterCrop):
                stages.append(Stage(whole, as_pair(after.size)))
            elif after is None or not isinstance(whole, int):
                stages.append(Stage(whole, size if isinstance(whole, int) else whole))
            else:
                raise RunError(f"preprocess: resize({whole}) leaves images of unlike shapes to {type(after).__name__}")
        elif not isinstance(op, CenterCrop):
            kind = type(op).__name__.lower()
            raise RunError(f"preprocess: the graph has resize and center_crop, and the view '{TEST}' more: {kind}")
        elif at == 0 or not isinstance(ops[at - 1], Resize):
            stages.append(Stage(None, as_pair(op.size)))
    return stages or [Stage(None, size)]


def cuts(view: PlannedView) -> str | None:
    """What to tell of a view whose images keep their shapes, of which a graph has one; None of others."""
    last = view.ops[-1].op if view.ops else None
    if last is None or (isinstance(last, Resize) and isinstance(last.size, int)):
        return f"the recipe's view '{TEST}' keeps the shape of images; this cuts their centre to its own"
    return None


def expected(leaving: Outgoing, images: Tensor) -> Tensor:
    """What the run answers for whole images, uint8 [B, C, H, W], of which the centre is looked at."""
    height, width = leaving.sized()
    pixels = draw_views({TEST: view_of(leaving)}, images, None, range(len(images)), 0, 0)[TEST].pixels
    top, left = (round((side - kept) / 2) for side, kept in zip(pixels.shape[-2:], (height, width), strict=True))
    return leaving.outputs(pixels[..., top : top + height, left : left + width])


def sizes_to_try(leaving: Outgoing) -> list[tuple[int, int]]:
    """Heights and widths of whole images: the network's own, larger ones of either shape, and a smaller one.

    Where images are cut without being resized before, none is smaller than the cut.
    """
    own = leaving.sized()
    uncut = [stage.part for stage in stages_of(view_of(leaving), own) if stage.whole is None]
    height, width = (max(sides) for sides in zip(own, *uncut, strict=True))
    sizes = [(height, width), (2 * height + 3, 3 * width + 5), (4 * height + 1, 2 * width + 9)]
    return sizes if uncut else [*sizes, (height * 2 // 3 + 1, width * 3 // 4 + 1)]


__all__ = ["LAYOUTS", "Prepared", "Stage", "cuts", "expected", "sizes_to_try", "stages_of", "view_of"]
