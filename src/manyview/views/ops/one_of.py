"""One op of several: what a chain cannot say, such as DSSL's grid shuffle *instead of* RandAugment."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from manyview.errors import unknown
from manyview.foundation.grammar import bind, parse_pipeline
from manyview.foundation.vocabulary import NONE, Words
from manyview.views.draws import Draws
from manyview.views.engine.program import Column
from manyview.views.ops.mix import MIXING
from manyview.views.ops.op import Op, Params, Retargets, ViewParams, as_float, check_share, where_applied
from manyview.views.ops.table import TABLE

Way = tuple[tuple[str, Op], ...]  # ops one after the other, by name
PROBES = torch.tensor([[61, 64], [133, 128]])


@dataclass(frozen=True, init=False)
class OneOf:
    """`one_of("randaugment(2, 5)", "grid_shuffle(4)", p=(0.9, 0.1))`: each image goes one way, drawn for it.

    ways: ops, or chains of them ("flip(1) | blur(p=1)"), that keep the image's size and mix no images. p: the chance of
    each way, by default the same for all; what is missing to 1 is the chance that the image stays as it is.
    Parameters: `way` int64 [B], the number of the way, -1 for none; and all that the ops drew, taken or not, as
    `0.randaugment.op`: the way's number, the op's name, its parameter.
    """

    ways: tuple[str, ...]
    p: tuple[float, ...]
    ops: tuple[Way, ...] = field(repr=False, compare=False)

    def __init__(self, *ways: Any, p: Sequence[float] | None = None, words: Words = NONE) -> None:
        if len(ways) < 2:
            raise ValueError(
                f'one_of draws from two ways or more, as in one_of("flip(1)", "vflip(1)"), got {len(ways)}'
            )
        if p is not None and not (isinstance(p, (tuple, list)) and len(p) == len(ways)):
            raise ValueError(f"p gives each of the {len(ways)} ways its chance, got {p!r}")
        chances = (1 / len(ways),) * len(ways) if p is None else tuple(p)
        for chance in chances:
            check_share("each p", chance)
        if math.fsum(chances) > 1 + 1e-9:
            raise ValueError(f"p must sum to at most 1, got {p!r}")
        object.__setattr__(self, "ways", tuple(map(str, ways)))
        object.__setattr__(self, "p", chances)
        object.__setattr__(self, "ops", tuple(_parse(way, words.beside("OPS", TABLE)) for way in self.ways))

    def sample(self, draws: Draws, sizes: Tensor) -> Params:
        number = draws.uniform("way")[:, 0]
        ends = torch.tensor(self.p, dtype=torch.float64).cumsum(0)
        if ends[-1] > 1 - 1e-9:
            ends[-1] = 1.0  # thirds that do not quite sum to one leave no image behind
        way = torch.searchsorted(ends, number, right=True)
        params = {"way": torch.where(way < len(self.ways), way, -1)}
        for at, ops in enumerate(self.ops):
            for name, op in ops:
                drawn = op.sample(draws.inner(f"{at}", name), sizes)
                params |= {f"{at}.{name}.{key}": value for key, value in drawn.items()}
        return params

    def render(self, images: Tensor, params: Params) -> Tensor:
        out = images
        for at, ops in enumerate(self.ops):
            changed = images
            for name, op in ops:
                changed = op.render(changed, _of(params, at, name))
            if out.is_floating_point():
                changed = as_float(changed)
            out = where_applied(params["way"] == at, changed, out)
        return out

    @property
    def parts(self) -> tuple[Op, ...]:
        """The ops of all ways."""
        return tuple(op for ops in self.ops for _, op in ops)

    def lower(self, params: Params, sizes: Tensor) -> list[Column]:
        columns = []
        for at, ops in enumerate(self.ops):
            for name, op in ops:
                columns += [column.where(params["way"] == at) for column in op.lower(_of(params, at, name), sizes)]  # type: ignore[attr-defined]
        return columns

    def difference(self, a: Params, b: Params, frame: ViewParams | None = None) -> Tensor:
        """For each way, whether a took it minus whether b did [B, ways]; what its ops drew is not compared."""
        numbers = torch.arange(len(self.ways), device=a["way"].device)
        return (a["way"][:, None] == numbers).double() - (b["way"][:, None] == numbers).double()

    def output_size(self, sizes: Tensor) -> Tensor:
        return sizes


def _parse(text: str, known: Mapping[str, type]) -> Way:
    """The ops of a way. Raises ValueError for names that are not known, and for ops that cannot be one of several."""
    where = f"way {text!r}"
    ops: list[tuple[str, Op]] = []
    for call in parse_pipeline(text, where):
        if call.name not in known:
            raise ValueError(f"{where}: {unknown('op', call.name, known, own=known.keys() - TABLE.keys())}")
        if call.name in dict(ops):
            raise ValueError(f"{where}: {call.name} stands twice; once is enough")
        op = bind(known[call.name], call, where)
        if isinstance(op, Retargets):
            what = "mixes images with one another" if isinstance(op, MIXING) else "changes the target"
            raise ValueError(f"{where}: {call.name} {what}, which cannot be one way of several")
        if not torch.equal(op.output_size(PROBES), PROBES):
            raise ValueError(f"{where}: {call.name} changes the image's size; put it before or after one_of")
        ops.append((call.name, op))
    return tuple(ops)


def _of(params: Params, way: int, name: str) -> Params:
    prefix = f"{way}.{name}."
    return {key.removeprefix(prefix): value for key, value in params.items() if key.startswith(prefix)}
