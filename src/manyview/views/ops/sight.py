"""Which part of its image a view shows: traced from op to op by the boxes that they drew.

An op that takes a part away, or moves what is there, has a method `shows(sight, params, sizes) -> Sight`. What has none
(slants, turns by degrees, perspective, policies) counts as showing all that it is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from manyview.views.ops.op import Made, Params


@dataclass(frozen=True)
class Sight:
    """What is seen so far. share: of the image's area, float64 [B]. place: where in the frame it lies, the rest being
    padding: top, left, height, width as fractions, float64 [B, 4]."""

    share: Tensor
    place: Tensor

    def cut(self, box: Tensor) -> Sight:
        """After a box [B, 4] was cut out, which may reach over the frame."""
        part = overlap(self.place, box)
        sides = box[:, 2:].clamp_min(torch.finfo(torch.float64).tiny)
        place = torch.cat([(part[:, :2] - box[:, :2]) / sides, part[:, 2:] / sides], dim=1)
        return Sight(self.share * _ratio(part, self.place), place)

    def hide(self, box: Tensor, applied: Tensor) -> Sight:
        """After boxes [B, 4] were filled, where applied [B]. Boxes that were hidden earlier count as spread evenly."""
        hidden = _ratio(overlap(self.place, box), self.place)
        return replace(self, share=self.share * torch.where(applied, 1 - hidden, 1.0))

    def mirrored(self, axis: int, applied: Tensor) -> Sight:
        """After a flip along axis 0 (y) or 1 (x), where applied [B]."""
        place = self.place.clone()
        place[:, axis] = 1 - place[:, axis] - place[:, axis + 2]
        return replace(self, place=torch.where(applied[:, None], place, self.place))

    def turned(self, k: Tensor) -> Sight:
        """After k quarter turns anticlockwise [B]."""
        top, left, height, width = self.place.unbind(dim=1)
        turns = (
            (top, left, height, width),
            (1 - left - width, top, width, height),
            (1 - top - height, 1 - left - width, height, width),
            (left, 1 - top - height, width, height),
        )
        places = torch.stack([torch.stack(turn, dim=1) for turn in turns])
        return replace(self, place=places[k, torch.arange(len(k))])


@runtime_checkable
class Shows(Protocol):
    """An op that takes a part of its image away, or moves what is there."""

    def shows(self, sight: Sight, params: Params, sizes: Tensor) -> Sight:
        """What is seen after it. sizes: heights and widths that the op sees, int64 [B, 2]."""
        ...


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """What boxes [B, 4] have in common, [B, 4]; of height and width 0 where that is nothing."""
    first = torch.maximum(a[:, :2], b[:, :2])
    last = torch.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:])
    return torch.cat([first, (last - first).clamp_min(0)], dim=1)


def visible(way: Sequence[Made]) -> Tensor:
    """The share of the image's area that is seen after all ops of a way, float64 [B]."""
    rows, whole = len(way[0].sizes), torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    sight = Sight(torch.ones(rows, dtype=torch.float64), whole.repeat(rows, 1))
    for made in way:
        if isinstance(made.op, Shows):
            sight = made.op.shows(sight, made.params, made.sizes)
    return sight.share


def hides(op: Any) -> bool:
    """Whether an op can take a part of its image away; a flip cannot."""
    return isinstance(op, Shows) and not getattr(op, "shows_all", False)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """Area of a part over that of the whole, 0 of nothing."""
    area = whole[:, 2] * whole[:, 3]
    return torch.where(area > 0, part[:, 2] * part[:, 3] / area.clamp_min(torch.finfo(torch.float64).tiny), 0.0)
