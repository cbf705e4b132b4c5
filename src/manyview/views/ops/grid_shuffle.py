"""Grid shuffle: the image cut into n x n cells that change places, as in jigsaw tasks (Noroozi & Favaro, ECCV 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from manyview.errors import DataError
from manyview.views.draws import Draws
from manyview.views.engine.program import Code, Column
from manyview.views.ops.op import TURNS, Params, ViewParams, check_probability, check_whole, where_applied


@dataclass(frozen=True)
class GridShuffle:
    """Shuffles n x n cells of equal size, all orders alike, with probability p (DSSL's heavy views: n 4, p 0.1).

    A cell is height // n by width // n pixels; rows and columns that are left over, at the bottom and on the right,
    stay. Pixels are moved, never changed. Parameters: `order` int64 [B, n * n] (place i, row by row, shows the cell
    that was at order[i]), `applied` [B]. Raises DataError for an image of fewer than n pixels a side.
    """

    anti: ClassVar = ("applied",)
    n: int = 4
    p: float = 1.0

    def __post_init__(self) -> None:
        check_whole("n", self.n, most=TURNS)
        check_probability(self.p)

    def sample(self, draws: Draws, sizes: Tensor) -> Params:
        if (sizes < self.n).any():
            height, width = sizes[int((sizes < self.n).any(dim=1).nonzero()[0])].tolist()
            raise DataError(f"grid_shuffle({self.n}) needs {self.n} pixels a side, got an image of {height}x{width}")
        return {"order": draws.permutation("order", self.n**2), "applied": draws.coin("applied", self.p)}

    def render(self, images: Tensor, params: Params) -> Tensor:
        height, width = images.shape[-2:]
        cell_h, cell_w = height // self.n, width // self.n
        y = torch.arange(height, device=images.device)[:, None]
        x = torch.arange(width, device=images.device)[None, :]
        whole = (y < self.n * cell_h) & (x < self.n * cell_w)
        place = torch.where(whole, y // cell_h * self.n + x // cell_w, 0)
        cell = params["order"].to(images.device)[:, place]  # [B, H, W]
        source = (cell // self.n * cell_h + y % cell_h) * width + cell % self.n * cell_w + x % cell_w
        source = torch.where(whole, source, y * width + x)
        shuffled = images.flatten(2).gather(2, source.flatten(1)[:, None].expand(-1, images.shape[1], -1))
        return where_applied(params["applied"], shuffled.view_as(images), images)

    def lower(self, params: Params, sizes: Tensor) -> list[Column]:
        cells = torch.full((len(params["order"]), 1), self.n)
        return [Column(Code.SHUFFLE, torch.cat([cells, params["order"]], dim=1), params["applied"])]

    def difference(self, a: Params, b: Params, frame: ViewParams | None = None) -> Tensor:
        """The order that makes view a's cells from view b's, int64 [B, n * n]."""
        neutral = torch.arange(self.n**2, device=a["order"].device)
        order_a, order_b = (torch.where(p["applied"][:, None], p["order"], neutral) for p in (a, b))
        return order_b.argsort(dim=1).gather(1, order_a)

    def output_size(self, sizes: Tensor) -> Tensor:
        return sizes
