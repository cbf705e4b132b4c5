"""The way of an image to a view: the ops on it in order, with what they drew and the sizes that they saw.

For ops that look back, such as `soften`: what they say of an image follows from what was drawn before them.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from manyview.views.ops.op import Made, Params
from manyview.views.plan import PlannedView


def way_to(
    plan: Mapping[str, PlannedView], view: PlannedView, drawn: Mapping[str, Mapping[str, Params]], sizes: Tensor
) -> tuple[list[Made], Tensor]:
    """All ops from the image on, those of this view as far as they have drawn; and the sizes after the last of them.

    drawn: view -> op -> parameters. sizes: heights and widths of the images [B, 2]. Rows are those of the view: [B], or
    [B*count]. The members of an orbit are taken for their image, whose share they show.
    """
    base, _, member = view.source.partition(".")
    way: list[Made] = []
    if base in plan:  # else it is where images come from
        above = plan[base]
        way, sizes = way_to(plan, above, drawn, sizes)
        if above.count is not None:
            rows = torch.arange(len(sizes))[int(member) :: above.count]
            way, sizes = [made.taken(rows) for made in way], sizes[rows]
    if view.count is not None:
        rows = torch.arange(len(sizes)).repeat_interleave(view.count)
        way, sizes = [made.taken(rows) for made in way], sizes[rows]
    for planned in view.ops:
        if planned.name not in drawn[view.name]:
            break
        way.append(Made(planned.op, drawn[view.name][planned.name], sizes))
        sizes = planned.op.output_size(sizes)
    return way, sizes
