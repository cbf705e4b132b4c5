"""Draws a view where it is imported: what the server of `processes.py` loads last, so that its copies need not."""

import torch

from manyview.views.plan import ViewSpec, plan_views
from manyview.views.view import draw_views


def draw_a_view() -> None:
    """Has the renderer compiled, where what it made is not kept already, and read."""
    plan = plan_views({"a": ViewSpec(**{"from": "image", "make": "flip"})})
    draw_views(plan, torch.zeros(1, 3, 8, 8, dtype=torch.uint8), None, [0], 0, 0)


draw_a_view()
