"""Initial weights of a branch: `init: torch` or `init: normal(0.2)`; without `init`, as timm and torch draw them.

What comes from somewhere (`init=` in the call of a backbone or head, see `origin`) is put in afterwards.

A word holds for the backbone, for the branch's heads, and for the nets of the relations that read it (of several
branches, the first that is read), such as AgMax's Q. Parameters of no layer (prototypes, tokens) stay.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from manyview.errors import RecipeError, unknown
from manyview.foundation.grammar import bind, parse_call
from manyview.views.draws import key_of

Init = Callable[[nn.Module], None]
DENSE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Torch:
    """Every layer starts as torch draws it, norms at 1 and 0: no fan-out, no last norm of zero (DSSL's networks)."""

    def __call__(self, module: nn.Module) -> None:
        for layer in module.modules():
            reset = getattr(layer, "reset_parameters", None)
            if reset is not None:
                reset()

    def __str__(self) -> str:
        return "torch"


@dataclass(frozen=True)
class Normal:
    """Weights of convolutions and linear layers from N(0, std), biases zero, norms at 1 and 0 (AgMax: std 0.2)."""

    std: float

    def __post_init__(self) -> None:
        if type(self.std) not in (int, float) or not 0 < self.std < math.inf:
            raise ValueError(f"std must be a positive number, got {self.std!r}")

    def __call__(self, module: nn.Module) -> None:
        Torch()(module)
        for layer in module.modules():
            if isinstance(layer, DENSE):
                nn.init.normal_(layer.weight, std=self.std)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def __str__(self) -> str:
        return f"normal({self.std:g})"


@contextmanager
def drawn_apart(*who: str) -> Iterator[None]:
    """Draws inside follow the seed around them and who draws; those after them are as if they were not there."""
    seed = key_of(torch.initial_seed(), *who)[0]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


INITS: dict[str, Callable[..., Init]] = {"normal": Normal, "torch": Torch}


def parse_init(text: object, where: str) -> Init:
    """`torch` or `normal(0.2)`. Raises RecipeError naming `where`."""
    if isinstance(text, str) and re.search(r"[/\\]|\.\w+$", text.partition("(")[0].strip()):
        place = f"{where.removesuffix('init')}backbone.init={text}"
        raise RecipeError(f"{where} says how weights are drawn; where they come from stands in the backbone: {place}")
    call = parse_call(text, where)  # type: ignore[arg-type]
    if call.name not in INITS:
        raise RecipeError(
            f"{where}: {unknown('start of weights', call.name, INITS, 'starts')}, or no init for timm's own"
        )
    return bind(INITS[call.name], call, where)
