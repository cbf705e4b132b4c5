"""Flips and quarter turns: exact, on any dtype."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from manyview.errors import DataError
from manyview.views.draws import Draws
from manyview.views.engine.program import Code, Column
from manyview.views.ops.op import Params, ViewParams, check_probability, where_applied
from manyview.views.ops.sight import Sight


@dataclass(frozen=True)
class Flip:
    """Mirrors left and right with probability p. Parameter: `applied` bool [B]."""

    anti: ClassVar = ("applied",)
    shows_all: ClassVar = True
    p: float = 0.5

    def __post_init__(self) -> None:
        check_probability(self.p)

    def sample(self, draws: Draws, sizes: Tensor) -> Params:
        return {"applied": draws.coin("applied", self.p)}

    def render(self, images: Tensor, params: Params) -> Tensor:
        return where_applied(params["applied"], images.flip(-1), images)

    def lower(self, params: Params, sizes: Tensor) -> list[Column]:
        which = torch.tensor([[1.0, 0.0]]).expand(len(params["applied"]), 2)
        return [Column(Code.FLIP, which, params["applied"])]

    def difference(self, a: Params, b: Params, frame: ViewParams | None = None) -> Tensor:
        """1 where both or neither was flipped, else 0 [B, 1]; the same in every frame."""
        return (a["applied"] == b["applied"]).double()[:, None]

    def shows(self, sight: Sight, params: Params, sizes: Tensor) -> Sight:
        return sight.mirrored(1, params["applied"])

    def output_size(self, sizes: Tensor) -> Tensor:
        return sizes


@dataclass(frozen=True)
class VFlip:
    """Mirrors top and bottom with probability p. Parameter: `applied` bool [B]."""

    anti: ClassVar = ("applied",)
    shows_all: ClassVar = True
    p: float = 0.5

    def __post_init__(self) -> None:
        check_probability(self.p)

    def sample(self, draws: Draws, sizes: Tensor) -> Params:
        return {"applied": draws.coin("applied", self.p)}

    def render(self, images: Tensor, params: Params) -> Tensor:
        return where_applied(params["applied"], images.flip(-2), images)

    def lower(self, params: Params, sizes: Tensor) -> list[Column]:
        which = torch.tensor([[0.0, 1.0]]).expand(len(params["applied"]), 2)
        return [Column(Code.FLIP, which, params["applied"])]

    def difference(self, a: Params, b: Params, frame: ViewParams | None = None) -> Tensor:
        """1 where both or neither was flipped, else 0 [B, 1]; the same in every frame."""
        return (a["applied"] == b["applied"]).double()[:, None]

    def shows(self, sight: Sight, params: Params, sizes: Tensor) -> Sight:
        return sight.mirrored(0, params["applied"])

    def output_size(self, sizes: Tensor) -> Tensor:
        return sizes


@dataclass(frozen=True)
class Rotate90:
    """Turns by k quarter turns anticlockwise, k uniform over 0…3. Parameter: `k` int64 [B]. Square images only."""

    shows_all: ClassVar = True

    def sample(self, draws: Draws, sizes: Tensor) -> Params:
        if (sizes[:, 0] != sizes[:, 1]).any():
            raise DataError("rotate90 needs square images; crop them first")
        return {"k": draws.integers("k", 4)[:, 0]}

    def render(self, images: Tensor, params: Params) -> Tensor:
        turned = torch.stack([images.rot90(k, dims=(-2, -1)) for k in range(4)])
        return turned[params["k"].to(images.device), torch.arange(len(images), device=images.device)]

    def lower(self, params: Params, sizes: Tensor) -> list[Column]:
        return [Column(Code.TURN, params["k"][:, None])]

    def difference(self, a: Params, b: Params, frame: ViewParams | None = None) -> Tensor:
        """Quarter turns from b to a, (k_a - k_b) mod 4, int64 [B, 1]."""
        return ((a["k"] - b["k"]) % 4)[:, None]

    def shows(self, sight: Sight, params: Params, sizes: Tensor) -> Sight:
        return sight.turned(params["k"])

    def output_size(self, sizes: Tensor) -> Tensor:
        return sizes
